# A small EDVR with the optimiser of edvr_gopro.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/edvr.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(
    generator=dict(
        mid_channels=16, deform_groups=1, num_blocks_extraction=2, num_blocks_reconstruction=4
    ),
)

optim_wrapper = dict(
    _delete_=True,
    type='GuardedOptimWrapper',
    optimizer=dict(type='Adam', lr=4e-4),
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=1_200, eta_min=1e-6
)

find_unused_parameters = True  # for DDP: MMagic freezes some parameters at first
