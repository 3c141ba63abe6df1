# Windows of 7 frames.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(num_frames=7))
train_dataloader = dict(dataset=dict(num_frames=7))
val_dataloader = dict(dataset=dict(num_frames=7))
test_dataloader = val_dataloader
