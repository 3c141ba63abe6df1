# The schedule of dblrnet_300k, for both networks.
_base_ = ['./dblrnet_300k.py']

optim_wrapper = dict(
    _delete_=True,
    constructor='MultiOptimWrapperConstructor',
    generator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
    discriminator=dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-4)),
)
