# For networks that are trained in a few CPU hours, with a fixed random seed.
_base_ = ['./default_runtime.py']

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1000, max_keep_ckpts=1))
randomness = dict(seed=0)
