# A tenth of the adversarial weight.
_base_ = ['../small/dblrgan_plus.py']

model = dict(gan_loss=dict(loss_weight=2e-4))
