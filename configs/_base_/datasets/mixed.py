# Blur made from sharp videos, and real pairs; docs/weights.md says from which and how.
_base_ = ['./gopro.py']

data_root = 'data/mixed_store'
train_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
