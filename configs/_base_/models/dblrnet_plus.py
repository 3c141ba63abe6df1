# DBLRNet by our recipe: it predicts a difference, has no normalisation, and learns by a loss that
# large errors do not rule.
_base_ = ['./dblrnet.py']

model = dict(
    generator=dict(norm=None, residual=True),
    pixel_loss=dict(form='charbonnier'),
)
