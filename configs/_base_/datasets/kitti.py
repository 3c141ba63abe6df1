# Blurred KITTI, for tests only; docs/kitti.md explains how to get it and where to put it.
_base_ = ['./video_clips.py']

data_root = 'data/BlurredKITTI'  # or a clip store made from it
test_dataloader = dict(dataset=dict(layout='kitti', data_root=data_root, split='test'))

train_dataloader = None
val_dataloader = None
val_evaluator = None
test_cfg = dict(type='MultiTestLoop')
