# DBLRGAN with our recipe: the generator and content loss of dblrnet_plus, the non-saturating
# adversarial loss, and a moving average of the generator's weights.
_base_ = ['./dblrgan.py']

model = dict(
    generator=dict(norm=None, residual=True),
    pixel_loss=dict(form='charbonnier'),
    gan_loss=dict(form='non_saturating', loss_weight=2e-3),
    ema=dict(momentum=1e-3),
)
