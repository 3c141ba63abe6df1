# The network processes all three colour channels.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(color='rgb'), pixel_loss=dict(color='rgb'))
