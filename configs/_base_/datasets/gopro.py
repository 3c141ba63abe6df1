# GOPRO_Large; docs/gopro.md explains how to get it and where to put it.
_base_ = ['./video_clips.py']

data_root = 'data/GOPRO_Large'  # or a clip store made from it
train_dataloader = dict(dataset=dict(layout='gopro', data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(layout='gopro', data_root=data_root, split='test'))
test_dataloader = val_dataloader
