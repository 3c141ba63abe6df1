# Blur synthesised from sharp videos, and real pairs; docs/weights.md names sources and method.
_base_ = ['./gopro.py']

data_root = 'data/mixed_store'
train_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
