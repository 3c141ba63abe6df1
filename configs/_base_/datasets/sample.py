# The sample clips in the repository, in GoPro's layout: enough to try everything.
_base_ = ['./gopro.py']

data_root = '{{ fileDirname }}/../../../tests/data/gopro'

train_dataloader = dict(batch_size=2, num_workers=1, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
