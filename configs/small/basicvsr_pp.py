# A small BasicVSR++ with the optimiser of basicvsr_pp_gopro, on windows of five frames.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(
    type='BasicVSR',
    generator=dict(
        type='BasicVSRPlusPlusDeblurNet', mid_channels=16, num_blocks=2, spynet_pretrained=None
    ),
    pixel_loss=dict(type='CharbonnierLoss', loss_weight=1.0, reduction='mean'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)

train_dataloader = dict(dataset=dict(gt='window'))
# it passes whole clips
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

find_unused_parameters = True  # of DDP, as in MMagic's configs
