"""tools/benchmark.py on the bundled clips."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import inference, loading
from dblrgan_mm.inference.networks.int8 import has_int8
from dblrgan_mm.nn import DBLRNet

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'dblrnet_sample.py'


@pytest.fixture
def run(call_tool, tmp_path) -> Callable[..., dict]:
    """Run `benchmark.py`; returns its results and what it printed."""

    def call(*arguments) -> dict:
        out = tmp_path / 'figures.json'
        done = call_tool('benchmark', *arguments, '--out', out)
        assert done.code == 0, done.err
        return dict(json.loads(out.read_text()), printed=done.out)

    return call


@pytest.fixture
def tests_only(tmp_path) -> Path:
    """A config without training."""
    config = tmp_path / 'tests_only.py'
    config.write_text(
        f"_base_ = ['{CONFIG}']\n"
        'train_dataloader = train_cfg = optim_wrapper = param_scheduler = None\n'
    )
    return config


def ratio(figures: dict, slow: str, fast: str) -> float:
    middle = {name: statistics.median(values) for name, values in figures['seconds'].items()}
    return middle[slow] / middle[fast]


@pytest.mark.slow
class TestData:
    SHORT = ('--seconds', '0.2', '--repeats', '1')

    def test_figures(self, call_tool, tmp_path):
        folder = tmp_path / 'scratch'
        folder.mkdir()
        done = call_tool(
            'benchmark',
            'data',
            CONFIG,
            *self.SHORT,
            '--folder',
            folder,
            '--out',
            tmp_path / 'b.json',
        )
        assert done.code == 0, done.err
        assert list(folder.iterdir()) == [], 'LMDB and store are removed'
        figures = json.loads((tmp_path / 'b.json').read_text())
        assert (figures['clips'], figures['pairs'], figures['crop']) == (3, 32, 128)
        assert all(speed > 0 for speeds in figures['warm'].values() for speed in speeds)
        assert figures['warm']['clip store'] > figures['warm']['image files']
        assert figures['gigabytes']['clip store'] == pytest.approx(
            2 * 3 * 144 * (12 * 254 + 10 * 254 + 10 * 256) / 1e9, rel=1e-3
        )
        for name, (speed,) in figures['warm'].items():
            (row,) = (line for line in done.out.splitlines() if f'│ {name} ' in line)
            assert f'{speed:.1f}' in row

    def test_other_samples_are_not_compared(self, call_tool, monkeypatch):
        honest = loading.mmagic_pipeline

        def other_crop(pipeline):
            steps = honest(pipeline)
            return [{**s, 'gt_patch_size': 64} if 'gt_patch_size' in s else s for s in steps]

        monkeypatch.setattr(loading, 'mmagic_pipeline', other_crop)
        done = call_tool('benchmark', 'data', CONFIG, *self.SHORT)
        assert done.code == 1
        assert done.err.splitlines()[-1] == (
            'error: image files, LMDB and clip store yield different samples; nothing was measured'
        )

    def test_config_without_training(self, call_tool, tests_only):
        done = call_tool('benchmark', 'data', tests_only)
        assert done.code == 1
        assert f'{tests_only} is for tests only' in done.err

    def test_missing_data(self, call_tool, tmp_path):
        done = call_tool('benchmark', 'data', CONFIG, '--data-root', tmp_path)
        assert done.code == 1
        assert f'error: no folder {tmp_path / "train"}. See docs/gopro.md.' in done.err


@pytest.mark.slow
def test_inference(run, sample_root):
    clip = sample_root / 'test' / 'sam2_blocks_carry'
    figures = run(
        'infer', 'dblrnet_plus', clip / 'blur', '--sharp', clip / 'sharp', '--device', 'cpu',
        '--frames', 3, '--repeats', 1,
        '--peers', ROOT / 'configs' / 'baselines' / 'nafnet_sample.py',
    )  # fmt: skip
    assert figures['largest_difference']['Deblurrer, float32'] <= 1
    assert figures['differing']['Deblurrer, float32'] < 0.01
    assert figures['difference_psnr']['plain loop, float32'] is None
    assert (figures['difference_psnr']['Deblurrer, float32'] or 100) > 70  # None: frames are equal
    if has_int8():
        assert 50 < figures['difference_psnr']['Deblurrer, int8'] < 70
    psnr = figures['psnr']
    assert psnr['plain loop, float32'] > psnr['blurry'] + 0.2
    assert psnr['Deblurrer, float32'] == pytest.approx(psnr['plain loop, float32'], abs=0.05)
    # multiply-accumulates of the convolutions: channels in, channels out, taps
    maps = [(1, 4, 27 * 3), (4, 16, 27), *[(16, 16, 9)] * 12, (16, 64, 9), (64, 64, 9), (64, 1, 9)]
    expected = 256 * 144 * sum(c_in * c_out * taps for c_in, c_out, taps in maps)
    assert figures['macs']['Deblurrer, float32'] == expected
    ways = {'plain loop, float32', 'Deblurrer, float32', *['Deblurrer, int8'] * has_int8()}
    maybe = {'Deblurrer, bfloat16'}  # only on CPUs where it is faster
    assert set(figures['seconds']) - maybe == ways | {'nafnet_sample'}
    for name in ways:
        by_operation = figures['profiles'][name]
        assert any('conv' in operation for operation in by_operation)
        middle = statistics.median(figures['seconds'][name])
        assert 0.3 < sum(by_operation.values()) / middle < 3
    assert 'all others' in figures['printed']
    assert set(figures['ceilings']) >= {'float32', 'copy'}
    assert all(f'│ {name} ' in figures['printed'] for name in figures['seconds'])


@pytest.mark.slow
def test_growth(run, sample_root, tmp_path):
    clip = sample_root / 'test' / 'sam2_blocks_carry' / 'blur'
    figures = run(
        'grow', 'dblrnet_plus', clip, '--device', 'cpu', '--frames', 3, '--repeats', 1, '--sizes',
        '128x96', '256x192', '--lengths', 3, 24, '--plot', tmp_path / 'plot.png',
    )  # fmt: skip
    assert [(*p['size'], p['frames']) for p in figures['sizes']] == [(128, 96, 3), (256, 192, 3)]
    short, long = figures['lengths']
    assert (short['frames'], long['frames']) == (3, 24)
    frame = 128 * 96 * 3
    assert long['memory'] < short['memory'] + 10e6 + 2 * 21 * frame  # the frames of the clip
    assert (tmp_path / 'plot.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.slow
def test_training(run, sample_root):
    figures = run(
        'train', ROOT / 'configs' / 'dblrgan_sample.py', '--data-root', sample_root,
        '--device', 'cpu', '--cfg-options', 'train_dataloader.batch_size=1',
        'train_dataloader.num_workers=1', '--steps', 1, '--repeats', 1,
    )  # fmt: skip
    name = 'dblrgan_sample, float32'
    assert figures['about'][name]['windows'] == 1
    assert figures['about'][name]['parameters'] > 1e4
    assert ratio(figures, 'dblrgan_sample, plain', name) > 0
    assert 0 <= figures['waiting'][name] < 1
    for by_operation in figures['profiles'].values():
        assert any('conv' in operation for operation in by_operation)


@pytest.mark.speed
class TestSpeedIsKept:
    """Compare speeds with a plain implementation in one run; see docs/performance.md for figures.

    Uses one thread, as two threads wait for each other on a busy machine.
    """

    @pytest.fixture(autouse=True)
    def _one_thread(self, monkeypatch):
        monkeypatch.setenv('OMP_NUM_THREADS', '1')

    def test_restoring_speed(self, run, sample_root, tmp_path):
        torch.save(DBLRNet().state_dict(), tmp_path / 'net.pth')
        clip = sample_root / 'test' / 'sam2_blocks_carry' / 'blur'
        figures = run(
            'infer', tmp_path / 'net.pth', clip, '--device', 'cpu', '--frames', 3, '--repeats', 3,
            '--size', '480x270',
        )  # fmt: skip
        assert ratio(figures, 'plain loop, float32', 'Deblurrer, float32') > 1.3  # idle: 1.5 to 2
        if has_int8():
            assert ratio(figures, 'plain loop, float32', 'Deblurrer, int8') > 3

    def test_training_speed(self, run, sample_root):
        figures = run(
            'train', ROOT / 'configs' / 'dblrgan_gopro.py', '--data-root', sample_root,
            '--device', 'cpu', '--cfg-options', 'train_dataloader.batch_size=1',
            'train_dataloader.num_workers=1', '--steps', 1, '--repeats', 3,
        )  # fmt: skip
        assert ratio(figures, 'dblrgan_gopro, plain', 'dblrgan_gopro, float32') > 0.9
        about = figures['about']['dblrgan_gopro, float32']
        assert (about['windows'], about['crop']) == (1, [128, 128])
        assert about['parameters'] > 20e6
        assert 0 <= figures['waiting']['dblrgan_gopro, float32'] < 1
        for by_operation in figures['profiles'].values():
            assert 'conv' in next(iter(by_operation)), 'what takes most comes first'


def test_config_for_tests_only_is_refused(call_tool, tests_only):
    done = call_tool('benchmark', 'train', tests_only)
    assert done.code == 1
    assert f'{tests_only} is for tests only' in done.err


def test_plain_loop_on_a_clip_shorter_than_a_window():
    frames = [np.full((2, 3, 3), value, np.uint8) for value in (10, 20)]
    loop = inference.of_windows(lambda window: window[:, -1], 7, torch.device('cpu'))
    assert [int(frame[0, 0, 0]) for frame in loop(frames)] == [20, 10]
