# BasicVSR++ without enlargement; the flow network starts from random weights.
model = dict(
    type='BasicVSR',
    generator=dict(
        type='BasicVSRPlusPlusDeblurNet', mid_channels=64, num_blocks=7, spynet_pretrained=None
    ),
    pixel_loss=dict(type='CharbonnierLoss', loss_weight=1.0, reduction='mean'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)
