# The package's dblrnet_ms, second part: continues after configs/small/dblrnet_ms.py with larger
# crops, fewer of them picked by their blur, and some windows without any blur. Set load_from to
# the last checkpoint of the first part; a path is relative to the folder in which the command runs.
# The learning rate falls to zero over both this part and configs/release/dblrnet_ms_mild.py.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dblrnet_ms.py',
    '../_base_/datasets/varied.py',
]

load_from = 'work_dirs/dblrnet_ms/iter_6400.pth'

train_cfg = dict(type='ResumableTrainLoop', max_iters=10_500, val_interval=10_500)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='ConvMuon', lr=2e-3))
param_scheduler = dict(
    type='LinearLR', by_epoch=False, start_factor=1.0, end_factor=1e-3, end=17_500
)

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        candidates=2,
        dataset=dict(
            gt='window',
            pipeline=[
                dict(type='LoadClipFrames', key='img', channel_order='rgb'),
                dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
                dict(type='ClipRandomCrop', gt_patch_size=176),
            ],
        ),
        pipeline=[
            dict(type='SharpInput', prob=0.01),
            *_base_.train_dataloader.dataset.pipeline,
        ],
    ),
)

default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=500, max_keep_ckpts=2),
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=2e-3),
)
randomness = dict(seed=11)
val_evaluator = [dict(type='PSNR'), dict(type='InputMetric', metric=dict(type='PSNR'))]
