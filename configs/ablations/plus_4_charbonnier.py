# The fourth step: Charbonnier's loss. An average of the weights makes it dblrnet_plus.
_base_ = ['./plus_3_schedule.py']

model = dict(pixel_loss=dict(form='charbonnier'))
