# Full, half and quarter resolution only.
_base_ = ['../small/dblrnet_ms.py']

model = dict(generator=dict(channels=(16, 32, 64), num_blocks=(1, 2, 5, 2, 2)))
