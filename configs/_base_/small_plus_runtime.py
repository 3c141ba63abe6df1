# small_runtime with a moving average of the weights, which is validated, tested and saved.
_base_ = ['./small_runtime.py']

default_hooks = dict(
    average=dict(type='EMAHook', ema_type='ForeachExponentialMovingAverage', momentum=5e-3)
)
