# BSD; docs/bsd.md explains how to get it and where to put it.
_base_ = ['./video_clips.py']

data_root = 'data/BSD'  # or a clip store made from it
exposure = '2ms16ms'  # exposures of the sharp and the blurry camera; or '1ms8ms', '3ms24ms'
train_dataloader = dict(
    dataset=dict(
        layout='bsd', data_root=data_root, layout_args=dict(exposure=exposure), split='train'
    )
)
val_dataloader = dict(
    dataset=dict(
        layout='bsd', data_root=data_root, layout_args=dict(exposure=exposure), split='valid'
    )
)
test_dataloader = dict(
    dataset=dict(
        layout='bsd', data_root=data_root, layout_args=dict(exposure=exposure), split='test'
    )
)
