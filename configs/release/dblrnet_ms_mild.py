# The package's dblrnet_ms, third part: continues after dblrnet_ms_large_crops.py with additional
# clips whose blur is mild, so that nearly sharp frames are not sharpened too much. Crops are no
# longer picked by their blur. docs/weights.md shows how to make the data.
_base_ = ['./dblrnet_ms_large_crops.py']

load_from = 'work_dirs/dblrnet_ms_large_crops/iter_10500.pth'

train_cfg = dict(max_iters=7_000, val_interval=7_000)
optim_wrapper = dict(optimizer=dict(lr=8e-4))
param_scheduler = dict(end=7_000)
train_dataloader = dict(
    dataset=dict(candidates=1, dataset=dict(data_root='data/varied_mild_store'))
)
randomness = dict(seed=12)
