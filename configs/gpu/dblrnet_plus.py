# DBLRNet with our recipe at full width, trained in minutes on one GPU.
_base_ = [
    '../_base_/gpu_runtime.py',
    '../_base_/models/dblrnet_plus.py',
    '../_base_/datasets/clips_on_device.py',
    '../_base_/schedules/gpu.py',
]

model = dict(data_preprocessor=_base_.data_preprocessor)
train_dataloader = dict(batch_size=28)
optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=6e-4))
