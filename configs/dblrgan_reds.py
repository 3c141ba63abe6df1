# DBLRGAN on REDS.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrgan.py',
    '_base_/datasets/reds.py',
    '_base_/schedules/dblrgan_300k.py',
]

# None: train from scratch; to start from a dblrnet_reds run, give its checkpoint
load_from = None

# the discriminator judges clips and needs all sharp frames of a window, not only the centre
train_dataloader = dict(dataset=dict(gt='window'))
