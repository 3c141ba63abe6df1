# A small DBLRGAN with our recipe; two thirds of the iterations train only the generator.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/dblrgan_plus.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small_plus.py',
]

model = dict(
    generator=dict(mid_channels=16, num_blocks=6),
    discriminator=dict(conv_channels=((16, 16), (32, 32), (64, 64)), fc_channels=64),
    ema=dict(momentum=5e-3),
    train_cfg=dict(gen_init_steps=800),
)
train_dataloader = dict(dataset=dict(gt='window'))
optim_wrapper = dict(
    _delete_=True,
    constructor='MultiOptimWrapperConstructor',
    generator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-3)),
    discriminator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=4e-4)),
)
