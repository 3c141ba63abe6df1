# For a short run on one GPU: crops are of one size, so that cuDNN may look for its fastest kernels,
# and nothing waits for the GPU in most iterations.
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
