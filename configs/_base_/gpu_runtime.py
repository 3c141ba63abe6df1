# For a short run on one GPU: all crops have the same size, so cuDNN can search for its fastest
# kernels, and most iterations never wait for the GPU.
_base_ = ['./plus_runtime.py']

env_cfg = dict(cudnn_benchmark=True)
default_hooks = dict(
    runtime_info=dict(type='DeferredLossesHook', every=10),
    non_finite=dict(interval=10),
    logger=dict(interval=50),
    checkpoint=dict(interval=1000, max_keep_ckpts=2),
)
log_processor = dict(window_size=50)
randomness = dict(seed=0)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')])
