from pathlib import Path

import pytest
from mmagic.registry import DATASETS, MODELS
from mmengine.config import Config

CONFIGS = sorted((Path(__file__).parent.parent / 'configs').glob('*.py'))


def load(name: str) -> Config:
    return Config.fromfile(next(path for path in CONFIGS if path.stem == name))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_builds(path, sample_root):
    cfg = Config.fromfile(path)
    model = MODELS.build(cfg.model)
    assert set(cfg.optim_wrapper) >= (
        {'generator', 'discriminator'} if hasattr(model, 'discriminator') else {'optimizer'}
    )
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert Path(loader.dataset.data_root).name in ('GOPRO_Large', 'gopro')
        loader.dataset.data_root = str(sample_root)
        item = DATASETS.build(loader.dataset)[0]
        assert item['inputs'].shape[0] == model.generator.num_frames
        # a discriminator of clips needs all sharp frames of the window
        training = loader is cfg.train_dataloader
        judged = getattr(model, 'judged_frames', 1) if training else 1
        sharp = item['data_samples'].gt_img
        assert (sharp.shape[0] if sharp.ndim == 4 else 1) == judged


@pytest.mark.parametrize('name', ['dblrnet_gopro', 'dblrgan_gopro'])
def test_gopro_is_a_full_training(name):
    cfg = load(name)
    assert cfg.train_cfg.max_iters >= 200_000
    assert cfg.val_dataloader.dataset.split == 'test'
    assert {metric.type for metric in cfg.val_evaluator} == {'PSNR', 'SSIM'}
    assert cfg.default_hooks.checkpoint.save_best == 'PSNR'
    assert cfg.default_hooks.checkpoint.out_dir is None  # the work dir
    assert 'TensorboardVisBackend' in {backend.type for backend in cfg.visualizer.vis_backends}
    crop = next(t for t in cfg.train_pipeline if t.type == 'ClipRandomCrop')
    assert crop.gt_patch_size == 128
    assert 'residual' not in cfg.model.generator  # the paper's network, without our variants


def test_dblrgan_starts_from_dblrnet_or_from_scratch():
    cfg = load('dblrgan_gopro')
    assert cfg.load_from is None
    assert cfg.model.generator == load('dblrnet_gopro').model.generator
    assert load('dblrgan_sample').model.generator == load('dblrnet_sample').model.generator
