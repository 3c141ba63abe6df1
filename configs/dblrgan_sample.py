# A small DBLRGAN on the repository's clips, trained in minutes on a CPU; `make train` uses this
# config.
_base_ = [
    '_base_/sample_runtime.py',
    '_base_/models/dblrgan.py',
    '_base_/datasets/sample.py',
    '_base_/schedules/sample.py',
]

model = dict(
    generator=dict(mid_channels=16, num_blocks=6, norm=None, residual=True),  # as in dblrnet_sample
    discriminator=dict(conv_channels=((16, 16), (32, 32), (64, 64)), fc_channels=64),
    ema=dict(momentum=0.01),
    train_cfg=dict(gen_init_steps=200),
)
train_dataloader = dict(dataset=dict(gt='window'))
optim_wrapper = dict(
    constructor='MultiOptimWrapperConstructor',
    generator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-3)),
    discriminator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
)
