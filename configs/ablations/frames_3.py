# Windows of 3 frames.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(num_frames=3))
train_dataloader = dict(dataset=dict(num_frames=3))
val_dataloader = dict(dataset=dict(num_frames=3))
test_dataloader = val_dataloader
