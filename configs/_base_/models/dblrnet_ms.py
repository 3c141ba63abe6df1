# MultiScaleDBLRNet, trained with the content loss only. With generator.color='rgb', also set
# pixel_loss.color='rgb'.
model = dict(
    type='BaseEditModel',
    generator=dict(type='MultiScaleDBLRNet', num_frames=5, align=True),
    pixel_loss=dict(type='ContentLoss', color='luma', form='charbonnier', spectrum_weight=10.0),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)
