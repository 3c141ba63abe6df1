# DBLRGAN on Blurred KITTI, which is for tests only: use a checkpoint of another data set.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/models/dblrgan.py',
    '_base_/datasets/kitti.py',
]
