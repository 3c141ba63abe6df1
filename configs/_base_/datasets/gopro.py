# GOPRO_Large; docs/gopro.md says how to get it and where to put it.
_base_ = ['./video_clips.py']

data_root = 'data/GOPRO_Large'  # or a clip store made from it
clips = dict(layout='gopro', data_root=data_root)
train_dataloader = dict(dataset=dict(split='train', **clips))
val_dataloader = dict(dataset=dict(split='test', **clips))
test_dataloader = val_dataloader
