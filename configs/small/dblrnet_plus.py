# A small DBLRNet with our recipe; the crop size is that of the other small networks.
_base_ = [
    '../_base_/small_plus_runtime.py',
    '../_base_/models/dblrnet_plus.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small_plus.py',
]

model = dict(generator=dict(mid_channels=16, num_blocks=6))
