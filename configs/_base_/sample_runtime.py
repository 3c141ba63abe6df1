# For runs of a few minutes: log and save more often, with a fixed random seed.
_base_ = ['./default_runtime.py']

default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=400, max_keep_ckpts=2))
log_processor = dict(window_size=20)
randomness = dict(seed=0)
