# DBLRNet on GoPro, with our recipe.
_base_ = [
    '_base_/plus_runtime.py',
    '_base_/models/dblrnet_plus.py',
    '_base_/datasets/gopro_large_crops.py',
    '_base_/schedules/dblrnet_plus_300k.py',
]
