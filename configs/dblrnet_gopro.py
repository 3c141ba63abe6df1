# DBLRNet on GoPro, trained with the content loss only.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrnet.py',
    '_base_/datasets/gopro.py',
    '_base_/schedules/dblrnet_300k.py',
]
