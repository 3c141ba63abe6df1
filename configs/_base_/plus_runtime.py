# Runtime of dblrnet_plus: a moving average of the weights is validated, tested and saved.
_base_ = ['./default_runtime.py']

default_hooks = dict(
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=1e-3)
)
