# DBLRGAN on GoPro, with our recipe.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrgan_plus.py',
    '_base_/datasets/gopro_large_crops.py',
    '_base_/schedules/dblrgan_plus_300k.py',
]

# None: train from scratch; to start from a dblrnet_plus_gopro run, give its checkpoint
load_from = None

# the discriminator judges clips and needs all sharp frames of a window, not only the centre
train_dataloader = dict(dataset=dict(gt='window'))
