# Restormer with its authors' schedule (Zamir et al., CVPR 2022, section 4), but without their
# progressively larger crops. MMagic provides only the weights.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/restormer.py',
    '../_base_/datasets/gopro.py',
    '../_base_/schedules/restorer_400k.py',
]

# this network restores single images
train_dataloader = dict(batch_size=8, dataset=dict(num_frames=1))
val_dataloader = dict(dataset=dict(num_frames=1))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=300_000)
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-4, weight_decay=1e-4),
)
param_scheduler = dict(
    type='CosineAnnealingLR', by_epoch=False, begin=92_000, end=300_000, T_max=208_000, eta_min=1e-6
)
