# EDVR-M, changed to keep the frame size.
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
    # iterations in which MMagic trains only the attention, for a start from weights that lack it
    train_cfg=dict(tsa_iter=1),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)
