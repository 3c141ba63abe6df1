# All three colours through the network.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(color='rgb'), pixel_loss=dict(color='rgb'))
