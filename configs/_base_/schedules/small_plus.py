# Warm-up and cosine as in dblrnet_plus_300k, with a learning rate for small networks.
_base_ = ['./small.py']

optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=1_200, T_max=1_100, eta_min=1e-6),
]
