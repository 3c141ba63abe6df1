# Settings shared by all data sets of clips; each of them adds its layout, data_root and splits.
num_frames = 5

train_pipeline = [
    dict(type='LoadClipFrames', key='img', channel_order='rgb'),
    dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
    dict(type='ClipRandomCrop', gt_patch_size=128),
    dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='horizontal'),
    dict(type='Flip', keys=['img', 'gt'], flip_ratio=0.5, direction='vertical'),
    dict(type='RandomTransposeHW', keys=['img', 'gt'], transpose_ratio=0.5),
    dict(type='TemporalReverse', keys=['img', 'gt'], reverse_ratio=0.5),
    dict(type='PackInputs', meta_keys=['key']),
]
test_pipeline = [
    dict(type='LoadClipFrames', key='img', channel_order='rgb'),
    dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
    dict(type='PackInputs', meta_keys=['key', 'middle_of_clip']),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='ResumableSampler', shuffle=True),
    dataset=dict(
        type='VideoClipDataset',
        num_frames=num_frames,
        gt='centre',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VideoClipDataset',
        num_frames=num_frames,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = [dict(type='PSNR'), dict(type='SSIM')]
test_evaluator = [
    *val_evaluator,
    dict(type='InputMetric', metric=dict(type='PSNR')),
    dict(type='InputMetric', metric=dict(type='SSIM')),
]
