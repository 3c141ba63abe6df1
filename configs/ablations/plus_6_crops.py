# One step beyond dblrnet_plus: larger crops.
_base_ = ['../small/dblrnet_plus.py']

train_pipeline = _base_.train_pipeline
train_pipeline[2].update(gt_patch_size=176)  # ClipRandomCrop
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
