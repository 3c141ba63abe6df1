# A small BasicVSR++ with the optimiser of basicvsr_pp_gopro, on windows of five frames.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/basicvsr_pp.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(generator=dict(mid_channels=16, num_blocks=2))

train_dataloader = dict(dataset=dict(gt='window'))
# this network restores complete clips
val_dataloader = dict(dataset=dict(num_frames=None, gt='window'))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='GuardedOptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)),
)
param_scheduler = dict(
    _delete_=True, type='CosineAnnealingLR', by_epoch=False, T_max=1_200, eta_min=1e-6
)

find_unused_parameters = True  # for DDP, as in MMagic's configs
