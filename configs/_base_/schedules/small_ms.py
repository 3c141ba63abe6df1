# Warm-up and cosine, over as many iterations as an hour of one CPU core allows.
train_cfg = dict(type='ResumableTrainLoop', max_iters=6_000, val_interval=6_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='ConvMuon', lr=3e-3))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=6_000, T_max=5_900, eta_min=3e-6),
]
