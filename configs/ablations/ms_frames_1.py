# Windows of 1 frame.
_base_ = ['../small/dblrnet_ms.py']

model = dict(generator=dict(num_frames=1))
train_dataloader = dict(dataset=dict(dataset=dict(num_frames=1)))
val_dataloader = dict(dataset=dict(num_frames=1))
test_dataloader = val_dataloader
