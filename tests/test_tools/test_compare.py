"""tools/compare.py: one table for several restorers."""

import contextlib
import csv
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmagic.registry import MODELS
from mmengine.config import Config
from skimage.metrics import peak_signal_noise_ratio

from dblrgan_mm.comparison.restoring import Clips, Method
from dblrgan_mm.comparison.running import Comparison

NET = dict(type='DBLRNet', mid_channels=4, num_blocks=1, norm=None, residual=True)


@pytest.fixture
def config(repo, tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(
        f"_base_ = ['{repo}/configs/dblrnet_sample.py']\nmodel = dict(generator={NET})\n"
    )
    return path


@pytest.fixture
def checkpoint(config, tmp_path):
    """A network that returns its input, apart from rounding."""
    model = MODELS.build(Config.fromfile(config).model)
    model.generator.tail[-1].weight.data.zero_()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'identity.pth')
    return tmp_path / 'identity.pth'


def table(text: str) -> dict[str, list[str]]:
    """Return the rows of the first table by their first cell."""
    rows = re.findall(r'^\| (.*) \|$', text, re.MULTILINE)
    cells = [[cell.strip() for cell in row.split('|')] for row in rows]
    end = next((i for i, row in enumerate(cells) if i and not row[0]), len(cells))
    return {row[0]: row[1:] for row in cells[:end]}


@pytest.mark.slow
def test_from_end_to_end(call_tool, sample_root, config, checkpoint, tmp_path, repo, page_clips):
    out, outside = tmp_path / 'out', tmp_path / 'frames'
    for clip in (sample_root / 'test').iterdir():
        shutil.copytree(clip / 'blur', outside / clip.name)
    (outside / 'cost.json').write_text('{"data": {"clips": {"fps": 0.25}}}')
    arguments = (
        'compare', out, '--device', 'cpu', '--workers', 2,
        '--data', f'clips={sample_root}:test',
        '--method', f'identity={config}:{checkpoint}',
        '--method', f'outside={outside}',
        '--method', f'other={repo}/configs/small/dblrnet.py:{checkpoint}',
    )  # fmt: skip
    first = call_tool(*arguments)
    assert first.code == 1, 'a method failed'
    assert 'failed: other' in first.err
    rows = table(first.out)
    assert list(rows) == ['', '---', 'input', 'identity', 'outside', 'other', 'sharp']
    assert rows['sharp'][0] == '', 'infinite'
    assert rows['sharp'][2] == '1.0000'
    assert rows['identity'][:2] == rows['input'][:2]
    assert rows['outside'] == [*rows['input'][:-4], '', '', '0.25', '']
    assert 'another architecture' in rows['other'][0]
    assert (out / 'table.md').read_text() in first.out

    with (out / 'scores.csv').open() as file:
        frames = list(csv.DictReader(file))
    assert [row['method'] for row in frames] == [
        name for name in ('input', 'identity', 'outside', 'sharp') for _ in range(20)
    ]
    row = frames[3]
    folder = sample_root / 'test' / row['clip']
    blurry, sharp = (cv2.imread(str(folder / s / f'{row["frame"]}.png')) for s in ('blur', 'sharp'))
    assert float(row['psnr']) == pytest.approx(peak_signal_noise_ratio(sharp, blurry), abs=1e-4)
    mean = np.mean([float(r['psnr']) for r in frames[:20]])
    assert float(rows['input'][0]) == pytest.approx(mean, abs=0.006)

    cost = json.loads((out / 'table.json').read_text())['identity']['cost']
    assert cost['parameters'] == sum(p.numel() for p in MODELS.build(NET).parameters())
    # 3D convolutions to 1 and 4 maps; two of a block; then to 16, 16 and 1 maps; nine taps each
    macs = 9 * (3 * 3 * 1 * 1 + 3 * 1 * 4 + 2 * 4 * 4 + 4 * 16 + 16 * 16 + 16)
    assert cost['data']['clips']['macs'] == macs * 144 * 256
    assert cost['data']['clips']['fps'] > 0
    # without gradients only a few maps of a frame are kept at a time
    assert cost['data']['clips']['memory'] < 200e6

    grids = sorted((out / 'grids').iterdir())
    assert [g.name for g in grids] == [
        'clips_sam2_blocks_carry.png',
        'clips_sam2_blocks_two_hands.png',
    ]
    assert cv2.imread(str(grids[0])).shape[1] == 4 * 256, 'input, identity, outside, sharp'
    assert cv2.imread(str(out / 'quality_cost.png')) is not None
    page = shutil.move(out, tmp_path / 'moved') / 'index.html'
    clips = page_clips(page)
    assert [clip['name'] for clip in clips] == ['sam2_blocks_carry', 'sam2_blocks_two_hands']
    assert list(clips[1]['images']) == ['input', 'identity', 'outside', 'sharp']
    shown = cv2.imread(str(page.parent / clips[1]['images']['sharp'][4]))
    sharp = sample_root / 'test' / clips[1]['name'] / 'sharp' / f'{clips[1]["frames"][4]}.png'
    assert np.array_equal(shown, cv2.imread(str(sharp)))
    assert clips[1]['scores']['input'][4] == pytest.approx(float(frames[14]['psnr']), abs=1e-3)
    assert clips[1]['scores']['sharp'] == [None] * 10, 'infinite'
    assert 'other failed: ' in page.read_text()
    shutil.move(tmp_path / 'moved', out)

    stored = out / 'methods' / 'identity' / 'result.json'
    before = stored.stat().st_mtime_ns
    second = call_tool(*arguments[:-2])
    assert second.code == 0, second.err
    assert stored.stat().st_mtime_ns == before, 'not run again'
    assert table(second.out) == {k: v for k, v in rows.items() if k != 'other'}


@pytest.mark.slow
def test_without_sharp_frames(call_tool, real_copy, config, checkpoint, tmp_path, page_clips, repo):
    for folder in (real_copy / 'train').glob('*/sharp'):
        shutil.rmtree(folder)
    clips = sorted(folder.name for folder in (real_copy / 'train').iterdir())
    restored = tmp_path / 'sharpened'
    for path in (real_copy / 'train').rglob('*.png'):
        image = cv2.imread(str(path))
        folder = restored / path.parent.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        soft = cv2.GaussianBlur(image, None, 1)
        cv2.imwrite(str(folder / path.name), cv2.addWeighted(image, 2, soft, -1, 0))
    recurrent = tmp_path / 'recurrent.py'
    recurrent.write_text(
        f"_base_ = ['{repo}/configs/baselines/basicvsr_pp_sample.py']\n"
        'model = dict(generator=dict(mid_channels=8, num_blocks=1))\n'
    )
    out = tmp_path / 'out'
    arguments = (
        'compare', out, '--device', 'cpu', '--data', f'own={real_copy}:train',
        '--method', f'identity={config}:{checkpoint}', '--method', f'sharpened={restored}',
        '--method', f'recurrent={recurrent}',
    )  # fmt: skip
    refused = call_tool(*arguments)
    assert refused.code == 1
    assert '--unpaired' in refused.err
    result = call_tool(*arguments, '--unpaired')
    assert result.code == 0, result.err
    rows = table(result.out)
    assert list(rows) == ['', '---', 'input', 'identity', 'sharpened', 'recurrent']
    assert 'gt_img' not in result.out + result.err
    assert rows[''][:2] == ['blur effect', 'warping error, 1e-3']
    assert rows['identity'][:2] == rows['input'][:2]
    assert float(rows['sharpened'][0]) < float(rows['input'][0])
    assert 'own: blur effect per clip\n' in result.out
    assert len(list((out / 'grids').iterdir())) == len(clips)
    assert cv2.imread(str(out / 'quality_cost.png')) is not None
    shown = page_clips(out / 'index.html')
    assert [clip['name'] for clip in shown] == clips
    assert (shown[0]['score'], shown[0]['unit']) == ('blur effect', '')
    assert all(0 < value < 1 for clip in shown for value in clip['scores']['sharpened'])


class TestFingerprint:
    """Changes that make a stored result invalid."""

    @pytest.fixture
    def mark(self, real_copy, config, tmp_path):
        def mark(method='input', device='cpu'):
            data = Clips('clips', 'gopro', str(real_copy), 'train')
            methods = [] if isinstance(method, str) else [method]
            comparison = Comparison(tmp_path, [data], methods, device, 1)
            return comparison.marks[comparison.folder(method)]

        return mark

    def test_frames(self, mark, real_copy):
        before = mark()
        assert mark() == before
        path = next((real_copy / 'train').rglob('*.png'))
        path.write_bytes(path.read_bytes() + b' ')
        assert mark() != before

    def test_config_and_device(self, mark, config):
        method = Method('net', str(config), None)
        before = mark(method)
        assert mark(method, 'cuda') != before
        config.write_text(config.read_text() + "model['generator']['num_blocks'] = 2\n")
        assert mark(method) != before

    def test_checkpoint(self, mark, config, checkpoint):
        method = Method('net', str(config), str(checkpoint))
        before = mark(method)
        content = torch.load(checkpoint, weights_only=True)
        content['state_dict']['generator.tail.4.bias'] += 0.05
        torch.save(content, checkpoint)
        assert mark(method) != before

    def test_fingerprint_of_the_input_ignores_the_device(self, mark):
        assert mark('input', 'cpu') == mark('input', 'cuda')


def test_faulty_config_is_reported_before_any_method_runs(call_tool, sample_root, tmp_path):
    (tmp_path / 'bad.py').write_text("_base_ = ['nowhere.py']")
    result = call_tool(
        'compare', tmp_path / 'out', '--data', f'a={sample_root}:test',
        '--method', f'bad={tmp_path}/bad.py',
    )  # fmt: skip
    assert result.code == 1
    assert 'bad.py' in result.err
    assert not (tmp_path / 'out' / 'methods').exists()


def test_folder_not_made_by_compare_is_kept(call_tool, sample_root, tmp_path):
    mine = tmp_path / 'methods' / 'input'
    mine.mkdir(parents=True)
    (mine / 'precious').touch()
    result = call_tool('compare', tmp_path, '--data', f'a={sample_root}:test')
    assert result.code == 1
    assert 'was not made by compare' in result.err
    assert (mine / 'precious').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--data', 'clips'], '--data takes NAME=ROOT:SPLIT'),
        (['--data', 'a=x:test', '--data', 'a=x:test'], "the name 'a' is given twice"),
        (['--data', 'a=x:test', '--method', 'm'], '--method takes NAME=CONFIG'),
        (
            ['--data', 'a=x:test', '--method', 'm=no.py'],
            'no.py is not a folder of frames; no config',
        ),
        (['--data', 'a=x:test', '--method', 'input=README.md'], "'input' is reserved"),
        (['--data', 'a/b=x:test'], "'a/b' must not contain / or |"),
        (['--data', 'a=nowhere:test'], 'nowhere'),
        (['--data', 'a=x:test', '--device', 'gpu'], "'gpu' is not a device"),
    ],
)
def test_bad_input(call_tool, tmp_path, arguments, message):
    result = call_tool('compare', tmp_path / 'out', *arguments)
    assert result.code == 1
    assert message in result.err
    assert 'Traceback' not in result.err


def test_output_folder_is_a_file(call_tool, tmp_path):
    (tmp_path / 'out').write_text('')
    result = call_tool('compare', tmp_path / 'out', '--data', 'a=x:test')
    assert result.code == 1
    assert 'cannot write to' in result.err


@pytest.mark.slow
def test_killed_command_leaves_no_processes(repo, sample_root, config, checkpoint, tmp_path):
    command = [
        sys.executable, repo / 'tools' / 'compare.py', tmp_path / 'out', '--device', 'cpu',
        '--data', f'a={sample_root}:test', '--method', f'm={config}:{checkpoint}',
    ]  # fmt: skip
    parent = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)

    def session() -> set[int]:
        found = set()
        for stat in Path('/proc').glob('[0-9]*/stat'):
            with contextlib.suppress(OSError):  # it has ended in the meantime
                state, _, _, leader = stat.read_text().rpartition(')')[2].split()[:4]
                if int(leader) == parent.pid and state != 'Z':
                    found.add(int(stat.parent.name))
        return found

    def wait_for(condition, seconds) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.2)
        assert condition()

    wait_for(lambda: (tmp_path / 'out' / 'methods' / 'm').exists(), 400)  # long, for busy machines
    wait_for(lambda: len(session()) >= 3, 30)  # the tool, a scoring and a restoring process
    parent.kill()
    parent.wait()
    wait_for(lambda: not session(), 30)


@pytest.mark.slow
def test_faulty_data_ends_the_command(call_tool, real_copy, tmp_path):
    path = next((real_copy / 'train').rglob('sharp/*.png'))
    path.write_bytes(path.read_bytes()[:500])
    result = call_tool('compare', tmp_path / 'out', '--data', f'a={real_copy}:train')
    assert result.code == 1
    assert path.name in result.err
    assert 'cannot be decoded' in result.err


@pytest.mark.slow
def test_pattern_without_a_split(call_tool, real_copy, tmp_path):
    root, pattern = real_copy / 'train', 'blurry={clip}/blur/{frame}.*'
    unpaired = ('--unpaired', '--layout', 'patterns', '--layout-args', pattern)
    store = tmp_path / 'store'
    converted = call_tool(
        'dataset_converters/make_clip_store', 'patterns', root, store, '--unpaired',
        '--layout-args', pattern,
    )  # fmt: skip
    assert converted.code == 0, converted.err
    tables = []
    for place in (root, store):
        result = call_tool('compare', tmp_path / place.name, '--data', f'own={place}:', *unpaired)
        assert result.code == 0, result.err
        tables.append(table(result.out))
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_layout_with_arguments(call_tool, real_copy, tmp_path):
    """Own pairs that are found by patterns."""
    result = call_tool(
        'compare', tmp_path / 'out', '--data', f'own={real_copy}:train', '--layout', 'patterns',
        '--layout-args', 'blurry={split}/{clip}/blur/{frame}.*',
        'sharp={split}/{clip}/sharp/{frame}.*',
    )  # fmt: skip
    assert result.code == 0, result.err
    assert 'own: 12 frames of 1 clip\n' in result.out
