"""Metrics that MMagic lacks, registered in ``mmagic.registry.METRICS``."""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.evaluation.input_metric import InputMetric

__all__ = ['InputMetric']
