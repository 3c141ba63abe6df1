# DBLRNet with the paper's defaults, trained by content loss alone.
model = dict(
    type='BaseEditModel',
    generator=dict(type='DBLRNet', num_frames=5),
    pixel_loss=dict(type='ContentLoss'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)
