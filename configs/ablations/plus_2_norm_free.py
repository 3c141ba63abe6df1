# The second step: no normalisation.
_base_ = ['./plus_1_residual.py']

model = dict(generator=dict(norm=None))
