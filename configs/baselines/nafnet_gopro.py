# NAFNet, width 64, with its authors' schedule as in MMagic's config.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/nafnet.py',
    '../_base_/datasets/gopro_large_crops.py',
    '../_base_/schedules/restorer_400k.py',
]

# this network restores single images
train_dataloader = dict(batch_size=8, dataset=dict(num_frames=1))
val_dataloader = dict(dataset=dict(num_frames=1))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3, betas=(0.9, 0.9)),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=400_000, eta_min=1e-7)
