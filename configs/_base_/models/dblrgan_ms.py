# MultiScaleDBLRNet trained against the discriminator, by the recipe of dblrgan_plus.
_base_ = ['./dblrgan.py']

model = dict(
    generator=dict(type='MultiScaleDBLRNet'),
    pixel_loss=dict(form='charbonnier'),
    gan_loss=dict(form='non_saturating', loss_weight=2e-3),
    ema=dict(momentum=1e-3),
)
