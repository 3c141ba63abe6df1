# No blocks at full resolution, more at the coarse scales.
_base_ = ['../small/dblrnet_ms.py']

model = dict(generator=dict(num_blocks=(0, 0, 3, 6, 3, 1, 0)))
