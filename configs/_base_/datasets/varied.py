# Several variants of blur synthesised from sharp videos, and real pairs; docs/weights.md names
# sources and method. Crops are picked where the blur is, and some of them get camera noise or
# compression.
_base_ = ['./gopro.py']

data_root = 'data/varied_store'
crop_size = 128
batch_size = 8

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=1,
    dataset=dict(
        _delete_=True,
        type='PickedCropsDataset',
        candidates=8,
        dataset=dict(
            type='VideoClipDataset',
            layout='gopro',
            data_root=data_root,
            split='train',
            num_frames=5,
            gt='centre',
            pipeline=[
                dict(type='LoadClipFrames', key='img', channel_order='rgb'),
                dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
                dict(type='ClipRandomCrop', gt_patch_size=crop_size),
            ],
        ),
        pipeline=[
            dict(type='CameraNoise', prob=0.2),
            dict(type='RandomClipCompression', prob=0.15),
            dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
            dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='vertical'),
            dict(type='RandomTransposeHW', keys=['img', 'gt'], transpose_ratio=0.5),
            dict(type='TemporalReverse', keys=['img', 'gt'], reverse_ratio=0.5),
            dict(type='PackInputs', meta_keys=['key']),
        ],
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
