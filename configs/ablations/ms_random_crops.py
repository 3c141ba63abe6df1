# Crops at random places instead of where the blur is.
_base_ = ['../small/dblrnet_ms.py']

train_dataloader = dict(dataset=dict(candidates=1))
