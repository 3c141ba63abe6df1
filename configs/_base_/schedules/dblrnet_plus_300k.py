# This schedule is ours: warm-up and cosine.
_base_ = ['./dblrnet_300k.py']

optim_wrapper = dict(optimizer=dict(lr=4e-4))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=2_000),
    dict(
        type='CosineAnnealingLR',
        by_epoch=False,
        begin=2_000,
        end=300_000,
        T_max=298_000,
        eta_min=1e-7,
    ),
]
