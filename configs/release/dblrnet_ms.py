# The package's dblrnet_ms, first part: a constant learning rate, for any number of iterations.
# configs/release/dblrnet_ms_decay.py is the second part, dblrnet_ms_mild.py the third.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dblrnet_ms.py',
    '../_base_/datasets/varied.py',
]

train_cfg = dict(type='ResumableTrainLoop', max_iters=1_000_000, val_interval=10_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='ConvMuon', lr=2e-3))
param_scheduler = dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=200)

# with the base config's eight candidates, hardly any sharp crop is kept, and sharp frames change
train_dataloader = dict(dataset=dict(candidates=4))

default_hooks = dict(
    logger=dict(interval=100),
    checkpoint=dict(interval=1000, max_keep_ckpts=2),
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=1e-3),
)
randomness = dict(seed=0)
val_evaluator = [dict(type='PSNR'), dict(type='InputMetric', metric=dict(type='PSNR'))]
