# A third of the adversarial weight.
_base_ = ['../small/dblrgan_plus_finetune.py']

model = dict(gan_loss=dict(loss_weight=2e-3))
