# A small DBLRNet, trained with the content loss only, with the recipe of dblrnet_gopro.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/dblrnet.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small.py',
]

model = dict(generator=dict(mid_channels=16, num_blocks=6))
