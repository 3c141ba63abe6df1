# Fine-tunes the package's dblrnet_plus with the discriminator. The package's dblrgan_plus was
# trained this way.
_base_ = ['./dblrgan_plus.py']

load_from = 'dblrnet_plus'

model = dict(gan_loss=dict(loss_weight=7e-3), train_cfg=dict(gen_init_steps=0))

train_cfg = dict(max_iters=600, val_interval=600)
optim_wrapper = dict(generator=dict(optimizer=dict(lr=2e-4)))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, start_factor=0.01, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=100, end=600, T_max=500, eta_min=1e-6),
]
