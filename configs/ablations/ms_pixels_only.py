# Charbonnier loss of the pixels only, without the loss of the spectrum.
_base_ = ['../small/dblrnet_ms.py']

model = dict(pixel_loss=dict(spectrum_weight=0.0))
