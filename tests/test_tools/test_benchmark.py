"""tools/benchmark.py on the bundled clips, called in this process."""

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dblrgan_mm import launch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'dblrnet_sample.py'


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location('benchmark_tool', ROOT / 'tools' / 'benchmark.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(tool, *arguments) -> SimpleNamespace:
    """Exit code, stdout and stderr of `benchmark.py data`."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['tools/benchmark.py', 'data', *map(str, arguments)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                launch.run(tool.main)
            except SystemExit as exit_:
                code = exit_.code
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


@pytest.mark.slow
class TestData:
    SHORT = ('--seconds', '0.2', '--repeats', '1')

    def test_figures(self, tool, tmp_path):
        folder = tmp_path / 'scratch'
        folder.mkdir()
        done = call(tool, CONFIG, *self.SHORT, '--folder', folder, '--out', tmp_path / 'b.json')
        assert done.code == 0, done.err
        assert list(folder.iterdir()) == [], 'LMDB and store are taken away'
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

    def test_other_samples_are_not_compared(self, tool, monkeypatch):
        honest = tool.mmagic_pipeline

        def other_crop(pipeline):
            steps = honest(pipeline)
            return [{**s, 'gt_patch_size': 64} if 'gt_patch_size' in s else s for s in steps]

        monkeypatch.setattr(tool, 'mmagic_pipeline', other_crop)
        done = call(tool, CONFIG, *self.SHORT)
        assert done.code == 1
        assert done.err.splitlines()[-1] == (
            'error: the paths do not yield the same samples; nothing was measured'
        )

    def test_config_without_training(self, tool):
        done = call(tool, ROOT / 'configs' / 'dblrnet_kitti.py')
        assert done.code == 1
        assert 'dblrnet_kitti.py is for tests only' in done.err

    def test_missing_data(self, tool, tmp_path):
        done = call(tool, CONFIG, '--data-root', tmp_path)
        assert done.code == 1
        assert f'error: no folder {tmp_path / "train"}. See docs/gopro.md.' in done.err


def test_inference(sample_root, tmp_path):
    clip = sample_root / 'test' / 'sam2_blocks_carry'
    weights = next((ROOT / 'dblrgan_mm' / 'inference' / 'weights').glob('*.pth'))
    command = [
        sys.executable, ROOT / 'tools' / 'benchmark.py', 'infer', weights, clip / 'blur',
        '--sharp', clip / 'sharp', '--device', 'cpu', '--frames', '3', '--repeats', '1',
        '--out', tmp_path / 'out.json',
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / 'out.json').read_text())
    assert figures['largest_difference']['Deblurrer, float32'] <= 1
    psnr = figures['psnr']
    assert psnr['plain loop, float32'] > psnr['blurry'] + 0.2
    assert all(abs(psnr[name] - psnr['plain loop, float32']) < 0.05 for name in figures['seconds'])
    assert 'plain loop, float32' in result.stdout


def test_inference_of_too_short_a_clip(call_tool, sample_root, tmp_path):
    frame = next((sample_root / 'test' / 'sam2_blocks_carry' / 'blur').iterdir())
    (tmp_path / '1.png').write_bytes(frame.read_bytes())
    weights = next((ROOT / 'dblrgan_mm' / 'inference' / 'weights').glob('*.pth'))
    result = call_tool('benchmark', 'infer', weights, tmp_path, '--device', 'cpu')
    assert result.code == 1
    assert '1 frames and --frames 5: at least 3 are' in result.err
