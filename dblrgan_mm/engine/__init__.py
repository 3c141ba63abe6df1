"""Hooks, training loop, optimiser and visualiser for MMEngine, in MMagic's registries."""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.engine.checkpoint_hooks import CheckpointMatchHook, WholeCheckpointHook
from dblrgan_mm.engine.faults import NonFiniteHook, UnreadableFramesHook
from dblrgan_mm.engine.hooks import (
    ClipVisualizationHook,
    CompileGeneratorHook,
    DeferredLossesHook,
    TrainingCurvesHook,
)
from dblrgan_mm.engine.loops import ResumableTrainLoop
from dblrgan_mm.engine.muon import ConvMuon
from dblrgan_mm.engine.optim_wrappers import GuardedAmpOptimWrapper, GuardedOptimWrapper
from dblrgan_mm.engine.visualizer import DeblurVisualizer

__all__ = [
    'CheckpointMatchHook',
    'ClipVisualizationHook',
    'CompileGeneratorHook',
    'ConvMuon',
    'DeblurVisualizer',
    'DeferredLossesHook',
    'GuardedAmpOptimWrapper',
    'GuardedOptimWrapper',
    'NonFiniteHook',
    'ResumableTrainLoop',
    'TrainingCurvesHook',
    'UnreadableFramesHook',
    'WholeCheckpointHook',
]
