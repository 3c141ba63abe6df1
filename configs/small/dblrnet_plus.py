# A small DBLRNet by our recipe; the crops stay those of the others.
_base_ = [
    '../_base_/small_plus_runtime.py',
    '../_base_/models/dblrnet_plus.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small_plus.py',
]

model = dict(generator=dict(mid_channels=16, num_blocks=6))
