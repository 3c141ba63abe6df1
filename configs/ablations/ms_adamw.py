# AdamW instead of Muon, with a suitable learning rate.
_base_ = ['../small/dblrnet_ms.py']

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-3, betas=(0.9, 0.99), weight_decay=0)
)
