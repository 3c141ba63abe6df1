# This schedule is ours: the paper's iterations and decay are not available.
train_cfg = dict(type='ResumableTrainLoop', max_iters=300_000, val_interval=10_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
param_scheduler = dict(
    type='MultiStepLR', by_epoch=False, milestones=[150_000, 225_000, 270_000], gamma=0.5
)
