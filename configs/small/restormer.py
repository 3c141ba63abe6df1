# A small Restormer with the optimiser of restormer_gopro.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/restormer.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(generator=dict(dim=16, num_blocks=[1, 1, 1, 2], num_refinement_blocks=1))

# this network restores single images
train_dataloader = dict(dataset=dict(num_frames=1))
val_dataloader = dict(dataset=dict(num_frames=1))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='GuardedOptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-4, weight_decay=1e-4),
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=1_200, eta_min=1e-6
)
