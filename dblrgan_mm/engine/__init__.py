"""Hooks and the visualizer that the MMEngine runner lacks, registered in MMagic's registries."""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.engine.hooks import (
    CheckpointMatchHook,
    ClipVisualizationHook,
    TrainingCurvesHook,
)
from dblrgan_mm.engine.visualizer import DeblurVisualizer

__all__ = [
    'CheckpointMatchHook',
    'ClipVisualizationHook',
    'DeblurVisualizer',
    'TrainingCurvesHook',
]
