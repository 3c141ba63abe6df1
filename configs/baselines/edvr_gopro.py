# EDVR-M, changed to keep the frame size, with the optimiser and the first cosine period of MMagic's
# config for REDS, which restarts the cosine at 150k iterations.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/edvr.py',
    '../_base_/datasets/gopro_large_crops.py',
    '../_base_/schedules/restorer_400k.py',
]

train_cfg = dict(max_iters=600_000)
optim_wrapper = dict(
    type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.999))
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=600_000, eta_min=1e-7)

find_unused_parameters = True  # for DDP: MMagic freezes some parameters at first
