# DBLRGAN on BSD, with our recipe.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrgan_plus.py',
    '_base_/datasets/bsd.py',
    '_base_/schedules/dblrgan_plus_300k.py',
]

# None: train from scratch; to start from a dblrnet_plus_bsd run, give its checkpoint
load_from = None

train_pipeline = _base_.train_pipeline
train_pipeline[2]['gt_patch_size'] = 256
# the discriminator judges clips and needs all sharp frames of a window, not only the centre
train_dataloader = dict(dataset=dict(gt='window', pipeline=train_pipeline))
