# Training crops are cut on the device, from a clip store that is loaded there completely. Crops are
# picked where the blur is. Validation reads the same store frame by frame.
_base_ = ['./gopro.py']

data_root = 'data/clip_store'
crop_size = 192

# each config adds this to its model
data_preprocessor = dict(
    type='ClipsOnDevicePreprocessor', data_root=data_root, split='train', num_frames=5
)
train_dataloader = dict(
    num_workers=4,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        _delete_=True,
        type='ClipPlacesDataset',
        layout='gopro',
        data_root=data_root,
        split='train',
        crop_size=crop_size,
        candidates=3,
        num_frames=5,
        sharp_prob=0.01,
    ),
)
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# a validation takes longer than a hundred iterations: use few frames and only PSNR, which is fast
val_evaluator = [dict(type='PSNR')]
