# MultiScaleDBLRNet of the default size, with the recipe of the released weights but a shorter
# schedule.
_base_ = [
    '../_base_/small_plus_runtime.py',
    '../_base_/models/dblrnet_ms.py',
    '../_base_/datasets/varied.py',
    '../_base_/schedules/small_ms.py',
]
