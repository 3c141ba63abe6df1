# DBLRNet with our recipe: it predicts the difference to the centre frame, has no normalisation, and
# is trained with the Charbonnier loss, which large errors do not dominate.
_base_ = ['./dblrnet.py']

model = dict(
    generator=dict(norm=None, residual=True),
    pixel_loss=dict(form='charbonnier'),
)
