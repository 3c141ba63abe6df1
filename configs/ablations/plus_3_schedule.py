# The third step: a higher learning rate, warm-up and cosine.
_base_ = [
    '../_base_/small_runtime.py',
    '../_base_/models/dblrnet.py',
    '../_base_/datasets/mixed.py',
    '../_base_/schedules/small_plus.py',
]

model = dict(generator=dict(mid_channels=16, num_blocks=6, norm=None, residual=True))
