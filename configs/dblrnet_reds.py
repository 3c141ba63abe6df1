# DBLRNet on REDS, trained with the content loss only.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrnet.py',
    '_base_/datasets/reds.py',
    '_base_/schedules/dblrnet_300k.py',
]
