# A training of minutes on one GPU; tools/gpu/run.py derives the number of iterations from the
# measured speed.
train_cfg = dict(type='ResumableTrainLoop', max_iters=14_000, val_interval=7_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=500),
    dict(
        type='CosineAnnealingLR', by_epoch=False, begin=500, end=14_000, T_max=13_500, eta_min=1e-6
    ),
]
