# The runtime of dblrnet_plus: an average of the weights is what is validated, tested and saved.
_base_ = ['./default_runtime.py']

default_hooks = dict(
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=1e-3)
)
