# A small NAFNet with the optimiser and cosine schedule of nafnet_gopro.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/nafnet.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(generator=dict(mid_channels=24, enc_blk_nums=[1, 1, 1, 4]))

# this network restores single images
train_dataloader = dict(dataset=dict(num_frames=1))
val_dataloader = dict(dataset=dict(num_frames=1))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.9)),
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=1_200, eta_min=1e-6
)
