# DBLRGAN on BSD.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrgan.py',
    '_base_/datasets/bsd.py',
    '_base_/schedules/dblrgan_300k.py',
]

# None trains from scratch; the checkpoint of a dblrnet_bsd run starts from there
load_from = None

# the discriminator judges clips: all sharp frames of a window, not the centre alone
train_dataloader = dict(dataset=dict(gt='window'))
