# The first step from dblrnet to dblrnet_plus: a residual network.
_base_ = ['../small/dblrnet.py']

model = dict(generator=dict(residual=True))
