# REDS, deblurring track; docs/reds.md explains how to get it and where to put it.
_base_ = ['./video_clips.py']

data_root = 'data/REDS'  # or a clip store made from it
train_dataloader = dict(dataset=dict(layout='reds', data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(layout='reds', data_root=data_root, split='val'))
test_dataloader = val_dataloader
