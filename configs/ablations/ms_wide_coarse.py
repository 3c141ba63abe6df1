# Larger maps and more blocks at the coarse scales, fewer blocks at full resolution.
_base_ = ['../small/dblrnet_ms.py']

model = dict(
    generator=dict(channels=(16, 32, 64, 128), num_blocks=(0, 1, 2, 4, 2, 1, 1)),
)
