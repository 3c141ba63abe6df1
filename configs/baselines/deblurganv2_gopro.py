# DeblurGAN-v2 on MobileNet, for tests alone: MMagic's training of it takes GPUs, and backbones that
# it downloads. Its released weights are of this network and that on Inception.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/gopro.py',
]

model = dict(
    type='DeblurGanV2',
    generator=dict(
        type='DeblurGanV2Generator',
        backbone='FPNMobileNet',
        norm_layer='instance',
        output_ch=3,
        num_filter=64,
        num_filter_fpn=128,
    ),
    data_preprocessor=dict(type='DataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3),
)

test_pipeline = _base_.test_pipeline
test_pipeline.insert(-1, dict(type='CentreFrame'))
test_dataloader = dict(dataset=dict(num_frames=1, pipeline=test_pipeline))
train_dataloader = None
val_dataloader = None
val_evaluator = None
test_cfg = dict(type='MultiTestLoop')
