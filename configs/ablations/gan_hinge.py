# The hinge adversarial loss.
_base_ = ['../small/dblrgan_plus_finetune.py']

model = dict(gan_loss=dict(form='hinge'))
