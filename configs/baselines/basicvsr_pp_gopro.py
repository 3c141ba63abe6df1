# BasicVSR++ without enlargement, with the optimiser and cosine of MMagic's config for REDS; the
# flow network starts from random weights and learns with the rest, where MMagic's starts from
# trained ones (spynet_pretrained) and is held still for 5000 iterations. tools/test.py gives means
# over its clips, not frames; tools/compare.py scores all methods alike.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/models/basicvsr_pp.py',
    '../_base_/datasets/gopro.py',
    '../_base_/schedules/restorer_400k.py',
]

train_pipeline = _base_.train_pipeline
train_pipeline[2]['gt_patch_size'] = 256
train_dataloader = dict(
    batch_size=1, dataset=dict(num_frames=15, gt='window', pipeline=train_pipeline)
)
# it passes whole clips
val_dataloader = dict(dataset=dict(num_frames=None, gt='window'))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=600_000)
optim_wrapper = dict(
    type='GuardedOptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99)),
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=600_000, eta_min=1e-7)

find_unused_parameters = True  # of DDP, as in MMagic's configs
