# DBLRNet on your own clips, with our recipe.
_base_ = [
    '_base_/plus_runtime.py',
    '_base_/models/dblrnet_plus.py',
    '_base_/datasets/own.py',
    '_base_/schedules/dblrnet_plus_300k.py',
]

train_pipeline = _base_.train_pipeline
train_pipeline[2]['gt_patch_size'] = 256
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
