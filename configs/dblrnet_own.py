# DBLRNet on your own clips, trained with the content loss only.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrnet.py',
    '_base_/datasets/own.py',
    '_base_/schedules/dblrnet_300k.py',
]
