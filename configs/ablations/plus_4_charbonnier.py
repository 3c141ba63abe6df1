# The fourth step: Charbonnier loss. With a moving average of the weights, this is dblrnet_plus.
_base_ = ['./plus_3_schedule.py']

model = dict(pixel_loss=dict(form='charbonnier'))
