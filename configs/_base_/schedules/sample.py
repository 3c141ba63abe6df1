# A training of a few minutes on two CPU cores.
train_cfg = dict(type='ResumableTrainLoop', max_iters=800, val_interval=200)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

param_scheduler = dict(type='CosineAnnealingLR', by_epoch=False, T_max=800, eta_min=1e-5)
