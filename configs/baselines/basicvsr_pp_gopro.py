# BasicVSR++ without enlargement, with the optimiser and cosine of MMagic's config for REDS. The
# flow network starts from random weights and is trained with the rest; in MMagic it starts from
# trained weights (spynet_pretrained) and is frozen for 5000 iterations. For this network,
# tools/test.py averages over clips, not frames; tools/compare.py scores all methods the same way.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/basicvsr_pp.py',
    '../_base_/datasets/gopro_large_crops.py',
    '../_base_/schedules/restorer_400k.py',
]

train_dataloader = dict(batch_size=1, dataset=dict(num_frames=15, gt='window'))
# this network restores complete clips
val_dataloader = dict(dataset=dict(num_frames=None, gt='window'))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=600_000)
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=600_000, eta_min=1e-7)

find_unused_parameters = True  # for DDP, as in MMagic's configs
