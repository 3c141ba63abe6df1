# A small DBLRNet on the repository's clips: a training of minutes on a CPU, to try everything.
_base_ = [
    '_base_/sample_runtime.py',
    '_base_/models/dblrnet.py',
    '_base_/datasets/sample.py',
    '_base_/schedules/sample.py',
]

model = dict(
    generator=dict(mid_channels=16, num_blocks=6, norm=None, residual=True),  # our variants
)
optim_wrapper = dict(type='GuardedOptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
