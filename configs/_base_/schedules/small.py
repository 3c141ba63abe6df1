# Of dblrnet_300k the learning rate and decay, over as many iterations as a few CPU hours allow.
train_cfg = dict(type='ResumableTrainLoop', max_iters=3_000, val_interval=3_000)
val_cfg = dict(type='MultiValLoop')
test_cfg = dict(type='MultiTestLoop')

optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
param_scheduler = dict(
    type='MultiStepLR', by_epoch=False, milestones=[1_500, 2_250, 2_700], gamma=0.5
)
