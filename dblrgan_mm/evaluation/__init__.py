"""Metrics that MMagic lacks, registered in ``mmagic.registry.METRICS``."""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.evaluation.input_metric import InputMetric
from dblrgan_mm.evaluation.warping_error import WarpingError

__all__ = ['InputMetric', 'WarpingError']
