# A discriminator of three frames.
_base_ = ['../small/dblrgan_plus.py']

model = dict(discriminator=dict(num_frames=3))
