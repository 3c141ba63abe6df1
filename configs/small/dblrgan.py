# A small DBLRGAN with the recipe of dblrgan_gopro.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/dblrgan.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(
    generator=dict(mid_channels=16, num_blocks=6),
    discriminator=dict(conv_channels=((16, 16), (32, 32), (64, 64)), fc_channels=64),
)
train_dataloader = dict(dataset=dict(gt='window'))
optim_wrapper = dict(
    _delete_=True,
    constructor='MultiOptimWrapperConstructor',
    generator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
    discriminator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
)
