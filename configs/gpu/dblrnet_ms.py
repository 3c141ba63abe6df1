# MultiScaleDBLRNet with about three times as many maps as by default, trained in minutes on one
# GPU; `make gpu` uses this config.
_base_ = [
    '../_base_/gpu_runtime.py',
    '../_base_/models/dblrnet_ms.py',
    '../_base_/datasets/clips_on_device.py',
    '../_base_/schedules/gpu.py',
]

model = dict(
    generator=dict(channels=(48, 64, 96, 128)),
    data_preprocessor=_base_.data_preprocessor,
)
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='ConvMuon', lr=3e-3))
