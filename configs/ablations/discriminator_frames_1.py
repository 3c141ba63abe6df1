# A discriminator for single frames.
_base_ = ['../small/dblrgan_plus_finetune.py']

model = dict(discriminator=dict(num_frames=1))
