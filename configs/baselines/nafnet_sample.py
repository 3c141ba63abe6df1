# The small NAFNet with a shortened schedule, on the repository's clips.
_base_ = ['../small/nafnet.py']

data_root = '{{ fileDirname }}/../../tests/data/gopro'
train_dataloader = dict(batch_size=2, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

train_cfg = dict(max_iters=200, val_interval=200)
param_scheduler = dict(T_max=200)
