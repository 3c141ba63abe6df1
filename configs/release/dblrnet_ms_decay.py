# The package's dblrnet_ms, second part: starts from the averaged weights of the first part and
# lowers the learning rate to a thousandth, with larger crops, more crops that are nearly sharp,
# and some windows without any blur. Set load_from to the last checkpoint of the first part; a
# path is relative to the folder in which the command runs.
_base_ = ['./dblrnet_ms.py']

load_from = 'work_dirs/dblrnet_ms/iter_20000.pth'

train_cfg = dict(max_iters=9_000, val_interval=9_000)
param_scheduler = dict(
    _delete_=True, type='LinearLR', by_epoch=False, start_factor=1.0, end_factor=1e-3, end=9_000
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        candidates=3,
        dataset=dict(
            gt='window',
            pipeline=[
                dict(type='LoadClipFrames', key='img', channel_order='rgb'),
                dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
                dict(type='ClipRandomCrop', gt_patch_size=176),
            ],
        ),
        pipeline=[
            dict(type='SharpInput', prob=0.05),
            *_base_.train_dataloader.dataset.pipeline,
        ],
    ),
)
default_hooks = dict(average=dict(momentum=2e-3))
