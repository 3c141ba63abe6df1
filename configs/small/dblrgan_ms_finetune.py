# Fine-tunes the package's dblrnet_ms with a discriminator that judges single frames. Not part of
# the package: the frames look only slightly sharper, and synthetic clips flicker more.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/dblrgan_plus.py',
    '../_base_/datasets/varied.py',
]

load_from = 'dblrnet_ms'

model = dict(
    generator=dict(_delete_=True, type='MultiScaleDBLRNet', num_frames=5, align=True),
    discriminator=dict(num_frames=1, conv_channels=((16, 16), (32, 32), (64, 64)), fc_channels=64),
    gan_loss=dict(loss_weight=5e-3),
    ema=dict(momentum=5e-3),
    train_cfg=dict(disc_init_steps=100),  # an untrained discriminator gives useless gradients
)
train_dataloader = dict(dataset=dict(candidates=4, dataset=dict(gt='window')))

train_cfg = dict(type='ResumableTrainLoop', max_iters=1_200, val_interval=1_200)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(
    constructor='MultiOptimWrapperConstructor',
    generator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
    discriminator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
)
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=200, end=1_200, T_max=1_000, eta_min=1e-6),
]

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=400, max_keep_ckpts=2))
randomness = dict(seed=0)
val_evaluator = [dict(type='PSNR'), dict(type='InputMetric', metric=dict(type='PSNR'))]
