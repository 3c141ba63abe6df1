# All frames merged in the first layer: 2D convolutions, where the paper has 3D ones.
_base_ = ['../small/dblrnet_plus.py']

model = dict(generator=dict(fusion='early'))
