# No noise and no compression in training.
_base_ = ['../small/dblrnet_ms.py']

train_dataloader = dict(dataset=dict(pipeline=_base_.train_dataloader.dataset.pipeline[2:]))
