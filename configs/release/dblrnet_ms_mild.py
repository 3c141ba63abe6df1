# The package's dblrnet_ms, third part: continues after dblrnet_ms_decay.py with additional clips
# whose blur is mild, so that nearly sharp frames are not sharpened too much. Crops are no longer
# picked by their blur. docs/weights.md shows how to make the data.
_base_ = ['./dblrnet_ms_decay.py']

load_from = 'work_dirs/dblrnet_ms_decay/iter_9000.pth'

train_cfg = dict(max_iters=7_000, val_interval=7_000)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(
    _delete_=True, type='LinearLR', by_epoch=False, start_factor=1.0, end_factor=1e-3, end=7_000
)
train_dataloader = dict(
    dataset=dict(
        candidates=1,
        dataset=dict(data_root='data/varied_mild_store'),
        pipeline=[
            dict(type='SharpInput', prob=0.01),
            *_base_.train_dataloader.dataset.pipeline[1:],
        ],
    ),
)
