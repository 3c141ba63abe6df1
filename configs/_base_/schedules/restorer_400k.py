# Settings shared by the restorers of configs/baselines; each sets its own optimiser and decay.
train_cfg = dict(type='ResumableTrainLoop', max_iters=400_000, val_interval=20_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')
