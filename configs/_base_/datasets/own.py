# Your own clips; docs/own_data.md explains the patterns.
_base_ = ['./video_clips.py']

data_root = 'data/own'  # or a clip store made from it
patterns = dict(
    blurry='{split}/{clip}/blurry/{frame}.*',
    sharp='{split}/{clip}/sharp/{frame}.*',
)
train_dataloader = dict(
    dataset=dict(layout='patterns', data_root=data_root, layout_args=patterns, split='train')
)
val_dataloader = dict(
    dataset=dict(layout='patterns', data_root=data_root, layout_args=patterns, split='test')
)
test_dataloader = val_dataloader
