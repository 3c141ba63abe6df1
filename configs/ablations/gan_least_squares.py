# The least-squares adversarial loss.
_base_ = ['../small/dblrgan_plus_finetune.py']

model = dict(gan_loss=dict(form='least_squares'))
