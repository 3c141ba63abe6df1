import copy
import functools
import inspect
from pathlib import Path

import mmagic
import pytest
import torch
from mmagic.registry import DATASETS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import pseudo_collate

from dblrgan_mm import launch
from dblrgan_mm.clips.layouts import LAYOUTS

FOLDER = Path(__file__).parent.parent / 'configs'
CONFIGS = sorted(FOLDER.glob('*.py'))
NAMES = [path.stem for path in CONFIGS]
# configs for comparisons and for the package's weights
COMPARED = [
    str(path.relative_to(FOLDER))
    for folder in ('baselines', 'small', 'ablations', 'release')
    for path in sorted((FOLDER / folder).glob('*.py'))
]


@functools.cache
def read(path: Path) -> Config:
    return Config.fromfile(path)


def load(name: str, data: str | None = None) -> Config:
    """Read a config; with ``data``, as the command line's ``--dataset`` changes it."""
    cfg = copy.deepcopy(read(FOLDER / f'{name}.py'))
    if data is not None:
        launch.use_dataset(cfg, data)
    return cfg


def loaders(cfg: Config) -> dict[str, ConfigDict]:
    """Return the data loaders of a config by purpose; configs for tests only have one."""
    found = {part: cfg.get(f'{part}_dataloader') for part in ('train', 'val', 'test')}
    return {part: loader for part, loader in found.items() if loader is not None}


@pytest.mark.parametrize('name', NAMES)
def test_builds(name, sample_root):
    """The model builds, and the bundled clips give the items that it needs."""
    cfg = load(name)
    model = MODELS.build(cfg.model)
    if cfg.get('train_cfg'):
        assert set(cfg.optim_wrapper) >= (
            {'generator', 'discriminator'} if hasattr(model, 'discriminator') else {'optimizer'}
        )
    for part, loader in loaders(cfg).items():
        split = 'train' if part == 'train' else 'test'
        loader.dataset.update(
            layout='gopro', layout_args=None, split=split, data_root=str(sample_root)
        )
        for transform in loader.dataset.pipeline:
            if transform.type == 'ClipRandomCrop':
                transform.gt_patch_size = 64  # the bundled clips are small
        item = DATASETS.build(loader.dataset)[0]
        assert item['inputs'].shape[0] == model.generator.num_frames
        # a discriminator of clips needs all sharp frames of the window
        judged = getattr(model, 'judged_frames', 1) if part == 'train' else 1
        sharp = item['data_samples'].gt_img
        assert (sharp.shape[0] if sharp.ndim == 4 else 1) == judged


@pytest.mark.parametrize('data', launch.DATASETS)
@pytest.mark.parametrize('name', ['dblrgan_gopro', 'baselines/nafnet_gopro', 'small/dblrnet_ms'])
def test_data_set_has_the_splits(name, data):
    """Also where the data set wraps another one (small/dblrnet_ms)."""
    cfg = load(name, data)
    for part, loader in loaders(cfg).items():
        dataset = loader.dataset.get('dataset', loader.dataset)
        assert dataset.layout == dict(sample='gopro', own='patterns').get(data, data)
        layout = LAYOUTS[dataset.layout]
        assert dataset.split in (layout.splits or ('train', 'test'))
        assert (dataset.split == 'train') == (part == 'train')
        assert dataset.get('test_mode', False) == (part != 'train')
        arguments = list(inspect.signature(layout.find).parameters)[3:]
        assert set(dataset.get('layout_args') or {}) <= set(arguments)


@pytest.mark.parametrize('data', launch.DATASETS)
def test_for_tests_only_or_complete(data):
    cfg = load('dblrgan_gopro', data)
    if data == 'kitti':
        assert cfg.get('train_cfg') is None
        assert set(loaders(cfg)) == {'test'}
    else:
        assert set(loaders(cfg)) == {'train', 'val', 'test'}
        assert cfg.train_cfg.max_iters >= 800
        assert cfg.val_cfg.type == 'MultiValLoop'
    assert cfg.test_cfg.type == 'MultiTestLoop'
    scored = [metric.get('metric', metric).type for metric in cfg.test_evaluator]
    assert scored == ['PSNR', 'SSIM', 'PSNR', 'SSIM'], 'of the restored, then of the blurry frames'


def test_clips_on_the_device_are_of_the_data_set():
    cfg = load('gpu/dblrnet_ms', 'reds')
    place = {'layout': 'reds', 'data_root': 'data/REDS', 'split': 'train'}
    for part in (cfg.model.data_preprocessor, cfg.train_dataloader.dataset):
        assert {key: part[key] for key in place} == place


def test_each_layout_is_a_data_set():
    assert {'sample', 'own'} | (LAYOUTS.keys() - {'patterns'}) == set(launch.DATASETS)


@pytest.mark.parametrize('name', NAMES)
def test_one_line_sets_the_folder(name):
    cfg = load(name)
    assert {loader.dataset.data_root for loader in loaders(cfg).values()} == {cfg.data_root}


@pytest.mark.parametrize('model', ['dblrnet', 'dblrgan'])
@pytest.mark.parametrize(
    ('data', 'val', 'test'),
    [
        ('gopro', 'test', 'test'),
        ('dvd', 'test', 'test'),
        ('bsd', 'valid', 'test'),
        ('reds', 'val', 'val'),
        ('own', 'test', 'test'),
    ],
)
def test_full_training(model, data, val, test):
    cfg = load(f'{model}_gopro', data)
    assert cfg.train_cfg.max_iters >= 200_000
    assert cfg.val_dataloader.dataset.split == val
    assert cfg.test_dataloader.dataset.split == test
    assert {metric.type for metric in cfg.val_evaluator} == {'PSNR', 'SSIM'}
    assert cfg.default_hooks.checkpoint.save_best == 'PSNR'
    assert cfg.default_hooks.checkpoint.out_dir is None  # None: the work dir
    assert 'TensorboardVisBackend' in {backend.type for backend in cfg.visualizer.vis_backends}
    crop = next(t for t in cfg.train_pipeline if t.type == 'ClipRandomCrop')
    assert crop.gt_patch_size == 128
    assert 'residual' not in cfg.model.generator  # the paper's network, without our changes


def test_our_recipe():
    net, gan, paper = (load(f'{n}_gopro') for n in ('dblrnet_plus', 'dblrgan_plus', 'dblrnet'))
    for cfg in (net, gan):
        assert cfg.model.generator == dict(paper.model.generator, norm=None, residual=True)
        assert cfg.model.pixel_loss.form == 'charbonnier'
        assert [s.type for s in cfg.param_scheduler] == ['LinearLR', 'CosineAnnealingLR']
        assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters == paper.train_cfg.max_iters
        crop = next(t for t in cfg.train_dataloader.dataset.pipeline if t.type == 'ClipRandomCrop')
        assert crop.gt_patch_size == 256
        assert cfg.test_dataloader == paper.test_dataloader
    assert net.default_hooks.average.type == 'EMAHook'
    assert gan.model.ema.momentum == net.default_hooks.average.momentum


@pytest.mark.slow
@pytest.mark.parametrize('name', COMPARED)
def test_configs_of_the_comparison(name, sample_root):
    """Each config builds, accepts the items of the data set, and restores a frame or a clip."""
    cfg = copy.deepcopy(read(FOLDER / name))
    data = dict(layout='gopro', layout_args=None, data_root=str(sample_root))
    if cfg.get('train_cfg') is not None:
        ends = [s.get('end', s.get('T_max')) for s in _schedulers(cfg) if 'Cosine' in s.type]
        assert ends in ([], [cfg.train_cfg.max_iters])
        clips = cfg.train_dataloader.dataset
        clips = clips.get('dataset', clips)  # the data set may wrap another one to pick crops
        crop = next(t for t in clips.pipeline if t.type == 'ClipRandomCrop')
        crop.gt_patch_size = 64
        clips.update(data, split='train')
        if clips.num_frames == 15:
            clips.num_frames = 5  # the bundled clips are short, too
        item = DATASETS.build(cfg.train_dataloader.dataset)[0]
        sharp = item['data_samples'].gt_img
        assert item['inputs'].shape[-2:] == sharp.shape[-2:] == (64, 64)
    if name.endswith('_gopro.py'):
        return  # full-size networks
    model = MODELS.build(cfg.model).eval()
    cfg.test_dataloader.dataset.update(data, split='test')
    item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    item['inputs'] = item['inputs'][..., :64, :64]
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([item]))
    restored, frames = sample.output.pred_img, item['data_samples'].gt_img
    assert restored.shape == (*frames.shape[:-2], 64, 64)


@pytest.mark.parametrize(
    ('name', 'theirs'),
    [
        ('nafnet', 'nafnet/nafnet_c64eb11128mb1db1111_8xb8-lr1e-3-400k_gopro.py'),
        ('restormer', 'restormer/restormer_official_gopro.py'),
        ('deblurganv2', 'deblurganv2/deblurganv2_fpn-mobilenet_1xb1_gopro.py'),
    ],
)
def test_weights_released_by_mmagic_can_be_loaded(name, theirs):
    """The generator is the same, under the same name, and frames have the same range."""
    theirs = read(Path(mmagic.__file__).parent / '.mim' / 'configs' / theirs).model
    ours = read(FOLDER / 'baselines' / f'{name}_gopro.py').model
    assert ours.generator == theirs.generator
    for key in ('mean', 'std'):
        assert ours.data_preprocessor[key] == theirs.data_preprocessor[key]


def _schedulers(cfg: Config) -> list[ConfigDict]:
    schedulers = cfg.param_scheduler
    return schedulers if isinstance(schedulers, list) else [schedulers]


@pytest.mark.parametrize('data', ['gopro', 'sample'])
def test_dblrgan_starts_from_dblrnet_or_from_scratch(data):
    cfg = load(f'dblrgan_{data}')
    assert cfg.load_from is None
    assert cfg.model.generator == load(f'dblrnet_{data}').model.generator


def test_fine_tuning_finds_the_package_weights_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = launch.find_checkpoint(read(FOLDER / 'small' / 'dblrgan_plus_finetune.py').load_from)
    assert Path(path).name.startswith('dblrnet_plus-')
