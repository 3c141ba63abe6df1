# EDVR-M, made to keep the size of frames, with the optimiser and first cosine period of MMagic's
# config for REDS, which restarts it at 150k iterations.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/gopro.py',
    '../_base_/schedules/restorer_400k.py',
]

model = dict(
    type='EDVR',
    generator=dict(
        type='EDVRDeblurNet',
        in_channels=3,
        mid_channels=64,
        num_frames=5,
        deform_groups=8,
        num_blocks_extraction=5,
        num_blocks_reconstruction=10,
        center_frame_idx=2,
        with_tsa=True,
    ),
    pixel_loss=dict(type='CharbonnierLoss', loss_weight=1.0, reduction='mean'),
    # MMagic trains the attention alone for so long, for a start from weights without it
    train_cfg=dict(tsa_iter=1),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)

train_pipeline = _base_.train_pipeline
train_pipeline[2]['gt_patch_size'] = 256
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

train_cfg = dict(max_iters=600_000)
optim_wrapper = dict(
    type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=4e-4, betas=(0.9, 0.999))
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=600_000, eta_min=1e-7)

find_unused_parameters = True  # of DDP: MMagic freezes some of them for a while
