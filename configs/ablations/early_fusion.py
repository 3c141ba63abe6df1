# All frames are merged in the first layer: 2D convolutions instead of the paper's 3D ones.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(fusion='early'))
