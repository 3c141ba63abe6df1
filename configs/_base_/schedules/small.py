# Learning rate and decay of dblrnet_300k, over as many iterations as a few CPU hours allow.
train_cfg = dict(type='ResumableTrainLoop', max_iters=1_200, val_interval=1_200)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
param_scheduler = dict(type='MultiStepLR', by_epoch=False, milestones=[600, 900, 1_080], gamma=0.5)
