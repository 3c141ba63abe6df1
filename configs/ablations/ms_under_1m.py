# Smaller maps at the two coarsest scales: fewer than a million parameters.
_base_ = ['../small/dblrnet_ms.py']

model = dict(generator=dict(channels=(16, 32, 48, 96)))
