# Wider maps at full resolution, but only one block after the coarse scales.
_base_ = ['../small/dblrnet_ms.py']

model = dict(
    generator=dict(channels=(24, 32, 48, 64), num_blocks=(1, 1, 2, 3, 2, 1, 1)),
)
