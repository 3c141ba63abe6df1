"""Configs train, validate and test on a small tree in the layout of each data set."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from dblrgan_mm.clips.layouts import DVD_TEST_CLIPS
from dblrgan_mm.engine.hooks import read_scalars

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / 'configs'
# every config of a method on GoPro, and both methods of the paper on the other data sets
TRAINED = [(name, 'gopro') for name in ('dblrgan', 'dblrgan_plus', 'dblrnet', 'dblrnet_plus')]
TRAINED += [
    (name, data) for name in ('dblrgan', 'dblrnet') for data in ('bsd', 'dvd', 'own', 'reds')
]


@pytest.fixture(scope='module')
def pairs(sample_root) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops of real frames, 64x48, blurry and sharp, BGR."""
    clip = sample_root / 'train' / 'gopro_walk_a'
    frames = [sorted((clip / folder).iterdir()) for folder in ('blur', 'sharp')]
    return [
        tuple(cv2.imread(str(path))[40:88, 90:154] for path in pair)
        for pair in zip(*frames, strict=True)
    ]


@pytest.fixture(scope='module')
def tree(tmp_path_factory, lay_out, pairs) -> Callable[[str], SimpleNamespace]:
    """Make a small data set in a config's layout; returns its root and the files of the test pairs.

    Training clips have six frames, clips for validation and test mostly three.
    """

    @functools.cache
    def make(data: str) -> SimpleNamespace:
        root = tmp_path_factory.mktemp(data)
        layout = dict(own='patterns').get(data, data)

        def add(split, clip, numbers, **fields):
            return lay_out(root, layout, clip, numbers, pairs, split=split, **fields)

        if data == 'gopro':
            add('train', 'GOPR0372_07_00', range(47, 53))
            test = add('test', 'GOPR0384_11_00', range(1, 4))
        elif data == 'dvd':
            for clip in ('720p_240fps_1', 'IMG_0001'):
                add('', clip, range(6))
            test = [pair for clip in DVD_TEST_CLIPS for pair in add('', clip, range(3))]
        elif data == 'bsd':
            add('train', '001', range(6))
            add('valid', '000', range(4))
            add('train', '001', range(5), exposure='3ms24ms')
            test = add('test', '011', range(3))
        elif data == 'reds':
            add('train', '000', range(6))
            test = add('val', '000', range(3))
        elif data == 'kitti':
            test = []
            for camera in ('image_2', 'image_3'):
                test += add('', '000001', range(9, 12), camera=camera)
        elif data == 'own':
            add('train', 'street', range(6))
            test = add('test', 'park', range(3))
        return SimpleNamespace(root=root, test=test)

    return make


def tiny(name: str, data: str) -> list[str]:
    """Return options for a data set, tiny networks and no workers."""
    options = ['model.generator.mid_channels=4', 'model.generator.num_blocks=1']
    if name.startswith('dblrgan'):
        options += ['model.discriminator.conv_channels=((4,),(4,))']
        options += ['model.discriminator.fc_channels=8']
    parts = ['test'] if data == 'kitti' else ['train', 'val', 'test']
    for part in parts:
        options += [f'{part}_dataloader.num_workers=0']
        options += [f'{part}_dataloader.persistent_workers=False']
    return ['--dataset', data, '--cfg-options', *options]


# two iterations and a validation on two frames
SHORT = (
    'randomness.seed=0',
    'train_dataloader.batch_size=2',
    'train_dataloader.dataset.pipeline.2.gt_patch_size=32',
    'val_dataloader.dataset.indices=[0,1]',
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'default_hooks.logger.interval=1',
)


@pytest.fixture(scope='module')
def train(tmp_path_factory, call_tool, tree) -> Callable[..., SimpleNamespace]:
    """Train each config once; returns its work dir and data root."""

    @functools.cache
    def run(name: str, data: str = 'gopro', root: Path | None = None) -> SimpleNamespace:
        root = root or tree(data).root
        work_dir = tmp_path_factory.mktemp('runs') / name
        done = call_tool(
            'train', CONFIGS / f'{name}_gopro.py', '--data-root', root, '--work-dir', work_dir,
            *tiny(name, data), *SHORT,
        )  # fmt: skip
        assert done.code == 0, done.err
        return SimpleNamespace(work_dir=work_dir, root=root)

    return run


@pytest.fixture
def score(tmp_path, call_tool) -> Callable[..., dict[str, float]]:
    """Return the scores of a checkpoint, measured by tools/test.py."""

    def run(name: str, data: str, work_dir: Path, root: Path, *options: str) -> dict[str, float]:
        checkpoint = (work_dir / 'last_checkpoint').read_text()
        done = call_tool(
            'test', CONFIGS / f'{name}_gopro.py', checkpoint, '--data-root', root,
            '--work-dir', tmp_path / 'test', '--out', tmp_path / 'scores.json',
            *tiny(name, data), *options,
        )  # fmt: skip
        assert done.code == 0, done.err
        return json.loads((tmp_path / 'scores.json').read_text())

    return run


def blurry_psnr(pairs: list[list[Path]]) -> float:
    """Return the mean PSNR of the blurry frames, computed by OpenCV."""
    assert pairs
    return float(np.mean([cv2.PSNR(*(cv2.imread(str(path)) for path in pair)) for pair in pairs]))


@pytest.mark.parametrize(('name', 'data'), TRAINED)
def test_train_and_test(name, data, tree, train, score):
    test = tree(data).test
    run = train(name, data)
    assert (run.work_dir / 'iter_2.pth').is_file()
    curves = read_scalars(run.work_dir)
    assert sorted(curves['loss_pix' if name.startswith('dblrgan') else 'loss']) == [1, 2]
    assert sorted(curves['PSNR']) == [2], 'one validation'
    scores = score(name, data, run.work_dir, run.root)
    assert list(scores) == ['PSNR', 'SSIM', 'input/PSNR', 'input/SSIM']
    assert np.isfinite(list(scores.values())).all()
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(test), abs=1e-3), (
        'each frame of the test clips, with its own sharp one'
    )


@pytest.mark.parametrize(('name', 'data'), TRAINED)
def test_data_root_is_that_of_all_three_loaders(name, data, train):
    run = train(name, data)
    used = Config.fromfile(run.work_dir / f'{name}_gopro.py')
    loaders = (used.train_dataloader, used.val_dataloader, used.test_dataloader)
    assert [loader.dataset.data_root for loader in loaders] == [str(run.root)] * 3


@pytest.mark.parametrize('name', ['dblrnet', 'dblrgan'])
def test_kitti_scores_a_checkpoint_of_another_data_set(name, tree, train, score):
    data = tree('kitti')
    scores = score(name, 'kitti', train(name).work_dir, data.root)
    assert len(data.test) == 6
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(data.test), abs=1e-3)
    assert np.isfinite(scores['PSNR'])


def test_kitti_cannot_be_trained_on(tree, call_tool, tmp_path):
    path = CONFIGS / 'dblrnet_gopro.py'
    done = call_tool('train', path, '--dataset', 'kitti', '--data-root', tree('kitti').root,
                     '--work-dir', tmp_path)  # fmt: skip
    assert done.code == 1
    assert done.err == 'error: kitti is for tests only: it has no training\n'


def test_data_set_of_a_config_file(tree, train, score, call_tool, tmp_path):
    """As in docs/own_data.md."""
    root = tree('gopro').root
    mine = tmp_path / 'mine.py'
    mine.write_text(
        "place = dict(layout='patterns', data_root='data/mine', layout_args=dict(\n"
        "    blurry='{split}/{clip}/blur/{frame}.*', sharp='{split}/{clip}/sharp/{frame}.*'))\n"
        "train_dataloader = dict(dataset=dict(place, split='train'))\n"
        "val_dataloader = dict(dataset=dict(place, split='test'))\n"
        'test_dataloader = val_dataloader\n'
    )
    scores = score('dblrnet', str(mine), train('dblrnet', str(mine), root).work_dir, root)
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(tree('gopro').test), abs=1e-3)


@pytest.mark.parametrize('name', ['mine', 'missing.py'])
def test_unknown_data_set(name, call_tool, tmp_path):
    done = call_tool('train', CONFIGS / 'dblrnet_gopro.py', '--dataset', name,
                     '--work-dir', tmp_path)  # fmt: skip
    assert done.code == 1
    assert done.err.startswith(f'error: --dataset {name}: no such file, and not one of bsd, dvd, ')


def test_from_a_clip_store(tree, train, score, call_tool, tmp_path):
    """Losses and scores are identical to those from the image files."""
    name, data = 'dblrgan', tree('gopro')
    store = tmp_path / 'store'
    assert call_tool('dataset_converters/make_clip_store', 'gopro', data.root, store).code == 0
    images, stored = train(name), train(name, root=store)
    curves = [read_scalars(run.work_dir) for run in (images, stored)]
    compared = [curve for curve in curves[0] if 'loss' in curve or curve in ('PSNR', 'SSIM')]
    assert len(compared) >= 3
    for curve in compared:
        assert curves[0][curve] == curves[1][curve], curve
    scores = score(name, 'gopro', stored.work_dir, store)
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(data.test), abs=1e-3)
    assert scores == score(name, 'gopro', images.work_dir, data.root)


def test_frames_that_dbn_scores(train, score, lay_out, pairs, tmp_path):
    """The command in docs/dvd.md, on test clips of 98 frames that differ from frame to frame."""
    by_matlab = (
        2, 5, 8, 11, 15, 18, 21, 24, 28, 31, 34, 38, 41, 44, 47, 51, 54, 57, 60, 64, 67, 70, 74,
        77, 80, 83, 87, 90, 93, 97,
    )  # fmt: skip
    small = [tuple(image[:16, :16] for image in pair) for pair in pairs]
    root = tmp_path / 'DVD'
    lay_out(root, 'dvd', 'IMG_0001', range(6), small)
    scored = []
    for i, clip in enumerate(DVD_TEST_CLIPS):
        written = lay_out(root, 'dvd', clip, range(98), small[i:] + small[:i])
        scored += [written[n - 1] for n in by_matlab]
    option = 'test_dataloader.dataset.centres=dbn_1based'
    scores = score('dblrnet', 'dvd', train('dblrnet', 'dvd').work_dir, root, option)
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(scored), abs=1e-3)


def test_scoring_needs_no_training_data(train, score, lay_out, pairs, tmp_path):
    root = tmp_path / 'GOPRO_Large'
    test = lay_out(root, 'gopro', 'GOPR0384_11_00', range(3), pairs, split='test')
    scores = score('dblrnet', 'gopro', train('dblrnet').work_dir, root)
    assert scores['input/PSNR'] == pytest.approx(blurry_psnr(test), abs=1e-3)
