# MMagic's defaults, and what video deblurring needs besides.
_base_ = ['mmagic::_base_/default_runtime.py']

custom_imports = dict(
    imports=[
        'dblrgan_mm.models',
        'dblrgan_mm.datasets',
        'dblrgan_mm.evaluation',
        'dblrgan_mm.engine',
    ],
    allow_failed_imports=False,
)

default_hooks = dict(
    # checkpoints belong into the work dir; MMagic's default ignores --work-dir
    checkpoint=dict(out_dir=None),
    # validation scores against iterations; by default all of them stand at epoch 0
    logger=dict(log_metric_by_epoch=False),
)

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(_delete_=True, type='DeblurVisualizer', vis_backends=vis_backends)
custom_hooks = [
    dict(type='SyncBuffersHook'),  # batch statistics, so that all processes validate one network
    dict(type='CheckpointMatchHook'),
    dict(type='ClipVisualizationHook', max_clips=4),
    dict(type='TrainingCurvesHook'),
]
