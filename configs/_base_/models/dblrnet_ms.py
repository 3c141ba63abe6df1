# MultiScaleDBLRNet, trained by content loss alone. With generator.color='rgb' set
# pixel_loss.color='rgb', too.
model = dict(
    type='BaseEditModel',
    generator=dict(type='MultiScaleDBLRNet', num_frames=5),
    pixel_loss=dict(type='ContentLoss', color='luma', form='charbonnier'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)
