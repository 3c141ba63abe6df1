# The same with an average of the weights, which is what is validated, tested and saved.
_base_ = ['./small_runtime.py']

default_hooks = dict(
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=5e-3)
)
