# DeblurGAN-v2's generator with MobileNet, for tests only, with MMagic's released weights: training
# it in MMagic needs GPUs and downloads backbones.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/gopro.py',
]

model = dict(
    type='BaseEditModel',
    generator=dict(
        type='DeblurGanV2Generator',
        backbone='FPNMobileNet',
        norm_layer='instance',
        output_ch=3,
        num_filter=64,
        num_filter_fpn=128,
    ),
    pixel_loss=dict(type='L1Loss'),
    data_preprocessor=dict(
        type='DataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, pad_size_divisor=32
    ),
)

test_dataloader = dict(dataset=dict(num_frames=1))
train_dataloader = None
val_dataloader = None
val_evaluator = None
test_cfg = dict(type='MultiTestLoop')
