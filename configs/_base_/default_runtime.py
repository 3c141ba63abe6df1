# MMagic's defaults and the additions for video deblurring.
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
    # save checkpoints in the work dir; MMagic's default ignores --work-dir
    checkpoint=dict(type='WholeCheckpointHook', out_dir=None),
    # log validation scores by iteration; by default all of them are logged at epoch 0
    logger=dict(log_metric_by_epoch=False),
    match=dict(type='CheckpointMatchHook'),
    buffers=dict(type='SyncBuffersHook'),  # all processes validate the same network
    non_finite=dict(type='NonFiniteHook', max_in_a_row=10),
    unreadable=dict(type='UnreadableFramesHook'),
)
# seconds; the run ends if a process waits longer for the others
env_cfg = dict(dist_cfg=dict(timeout=600))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(_delete_=True, type='DeblurVisualizer', vis_backends=vis_backends)
custom_hooks = [
    dict(type='ClipVisualizationHook', max_clips=4),
    dict(type='TrainingCurvesHook'),
]
