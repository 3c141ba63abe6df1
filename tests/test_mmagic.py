"""This package's parts in MMagic's own configs, and MMagic's parts on this package's data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmagic.registry import DATASETS, MODELS
from mmengine.dataset import pseudo_collate
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.utils.data import DataLoader

from dblrgan_mm import datasets, models  # noqa: F401

GENERATOR = dict(type='DBLRNet', mid_channels=8, num_blocks=2)
PREPROCESSOR = dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3)


def batch(sample_root, *transforms, gt='centre', crop=64) -> dict:
    """Return two training windows of the sample clips, processed by MMagic's transforms."""
    dataset = DATASETS.build(
        dict(
            type='VideoClipDataset',
            data_root=str(sample_root),
            split='train',
            gt=gt,
            pipeline=[
                dict(type='LoadClipFrames', key='img', channel_order='rgb'),
                dict(type='LoadClipFrames', key='gt', channel_order='rgb'),
                dict(type='SetValues', dictionary=dict(scale=1)),
                dict(type='PairedRandomCrop', gt_patch_size=crop),
                *transforms,
                dict(type='PackInputs'),
            ],
        )
    )
    return next(iter(DataLoader(dataset, batch_size=2, collate_fn=pseudo_collate)))


def optimiser(module) -> OptimWrapper:
    return OptimWrapper(torch.optim.Adam(module.parameters(), lr=1e-3))


def assert_trained(module, before) -> None:
    after = torch.cat([p.detach().flatten() for p in module.parameters()])
    assert torch.isfinite(after).all()
    assert (after != before).float().mean() > 0.5


def flat(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in module.parameters()])


def test_dblrnet_and_content_loss_under_base_edit_model(sample_root):
    model = MODELS.build(
        dict(
            type='BaseEditModel',
            generator=GENERATOR,
            pixel_loss=dict(type='ContentLoss'),
            data_preprocessor=PREPROCESSOR,
        )
    ).train()
    before = flat(model.generator)
    log = model.train_step(batch(sample_root), optimiser(model))
    assert torch.isfinite(log['loss'])
    assert_trained(model.generator, before)
    sample = model.eval().val_step(batch(sample_root))[0]
    assert sample.output.pred_img.shape == (3, 64, 64)


def test_discriminator_under_srgan(sample_root):
    model = MODELS.build(
        dict(
            type='SRGAN',
            generator=GENERATOR,
            discriminator=dict(
                type='FrameSequenceDiscriminator',
                num_frames=1,
                conv_channels=((8, 8), (16, 16)),
                fc_channels=16,
            ),
            pixel_loss=dict(type='ContentLoss'),
            gan_loss=dict(type='AdversarialLoss', form='non_saturating', loss_weight=5e-3),
            data_preprocessor=PREPROCESSOR,
        )
    ).train()
    before = flat(model.generator), flat(model.discriminator)
    optim = OptimWrapperDict(
        generator=optimiser(model.generator), discriminator=optimiser(model.discriminator)
    )
    log = model.train_step(batch(sample_root), optim)
    assert {'loss_pix', 'loss_gan', 'loss_d_real', 'loss_d_fake'} <= set(log)
    assert_trained(model.generator, before[0])
    assert_trained(model.discriminator, before[1])


def test_video_clip_dataset_feeds_edvr(sample_root):
    """EDVR upscales four times, so it gets blurry frames shrunk to a quarter."""
    model = MODELS.build(
        dict(
            type='EDVR',
            generator=dict(
                type='EDVRNet',
                in_channels=3,
                out_channels=3,
                mid_channels=8,
                num_frames=5,
                deform_groups=2,
                num_blocks_extraction=1,
                num_blocks_reconstruction=1,
                with_tsa=False,
            ),
            pixel_loss=dict(type='CharbonnierLoss'),
            data_preprocessor=PREPROCESSOR,
        )
    ).train()
    before = flat(model.generator)
    shrink = dict(type='Resize', keys=['img'], scale=0.25, keep_ratio=True, interpolation='area')
    log = model.train_step(batch(sample_root, shrink), optimiser(model))
    assert torch.isfinite(log['loss'])
    assert_trained(model.generator, before)


@pytest.mark.slow
def test_mmagics_own_train_tool(sample_root, tmp_path):
    """MMagic's tools/train.py trains an MMagic config with custom_imports and our types."""
    config = tmp_path / 'mine.py'
    config.write_text(f"""
_base_ = ['mmagic::_base_/default_runtime.py']
custom_imports = dict(
    imports=['dblrgan_mm.models', 'dblrgan_mm.datasets'], allow_failed_imports=False)
model = dict(
    type='BaseEditModel',
    generator=dict(type='DBLRNet', mid_channels=8, num_blocks=1),
    pixel_loss=dict(type='ContentLoss'),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0., 0., 0.], std=[255., 255., 255.]))
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='VideoClipDataset', data_root={str(sample_root)!r}, split='train', pipeline=[
            dict(type='LoadImageFromFile', key='img', channel_order='rgb'),
            dict(type='LoadImageFromFile', key='gt', channel_order='rgb'),
            dict(type='SetValues', dictionary=dict(scale=1)),
            dict(type='PairedRandomCrop', gt_patch_size=32),
            dict(type='PackInputs')]))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-4))
default_hooks = dict(checkpoint=dict(interval=2, out_dir=None, save_best=None))
""")
    import mmagic

    tool = Path(mmagic.__file__).parent / '.mim' / 'tools' / 'train.py'
    # MMagic's tools do not start with NumPy 2: compat runs them with its patches
    patched = ['-m', 'dblrgan_mm.compat'] if np.__version__ >= '2' else []
    done = subprocess.run(
        [sys.executable, *patched, str(tool), str(config), '--work-dir', str(tmp_path / 'run')],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'run' / 'iter_2.pth').stat().st_size > 10_000
