"""tools/deblur.py, from the command line."""

import contextlib
import itertools
import subprocess
import sys
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch

from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference.networks.int8 import has_int8


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Run as a single process, even if a job of several processes runs the tests."""
    for name in ('RANK', 'SLURM_ARRAY_TASK_ID', 'SLURM_STEP_NUM_TASKS'):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path, sample_root):
    """Five real blurry frames, 96x64."""
    folder = tmp_path / 'frames'
    folder.mkdir()
    blur = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    for path in sorted(blur.iterdir())[:5]:
        cv2.imwrite(str(folder / path.name), cv2.imread(str(path))[:64, :96])
    return folder


def frames_of(folder):
    return [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())]


@pytest.fixture
def video(tmp_path, folder, call_tool):
    assert call_tool('deblur', folder, tmp_path / 'clip.mp4', '--crf', 1).code == 0
    return tmp_path / 'clip.mp4'


class TestOneClip:
    @pytest.mark.parametrize('dtype', ['float32', *['int8'] * has_int8()])
    def test_folder(self, call_tool, folder, tmp_path, dtype):
        name = 'dblrnet_plus' if dtype == 'int8' else None
        options = ('--dtype', dtype, *(('--checkpoint', name) if name else ()))
        result = call_tool('deblur', folder, tmp_path / 'out', *options)
        assert (result.code, result.out) == (0, f'{tmp_path / "out"}: 5 frames restored\n')
        assert ('weights that come with the package, trained on ' in result.err) == (not name)
        restored = frames_of(tmp_path / 'out')
        given = frames_of(folder)
        expected = Deblurrer.from_checkpoint(name, device='cpu', dtype=dtype)(given)
        for a, b, blurry in zip(restored, expected, given, strict=True):
            assert np.array_equal(a, b)
            assert not np.array_equal(a, blurry)

    def test_preview(self, call_tool, folder, video, tmp_path, page_clips):
        out = tmp_path / 'out'
        result = call_tool('deblur', folder, video, out, '--preview', 2, '--end', 4)
        assert result.code == 0, result.err
        first, second, last = result.out.splitlines()
        assert first.startswith('frames: 4 frames, restoring all of them takes about ')
        assert second.startswith('clip.mp4: 4 frames, ')
        assert not out.exists(), 'the preview only'
        page = tmp_path / 'out.preview' / 'index.html'
        assert last == f'Page for a browser: {page}'
        clips = page_clips(page)
        assert [(c['name'], c['frames']) for c in clips] == [
            ('frames', [sorted(folder.iterdir())[i].name for i in (1, 3)]),
            ('clip.mp4', ['0:00.04', '0:00.12']),
        ]
        assert list(clips[0]['images']) == ['blurry', 'restored']
        assert call_tool('deblur', folder, out, '--preview', 1).code == 0, 'again'
        assert len(page_clips(page)) == 1
        assert len(list(page.parent.rglob('*.png'))) == 2

    def test_preview_of_a_bad_input(self, call_tool, folder, tmp_path, page_clips):
        (tmp_path / 'bad.mp4').write_text('no video')
        result = call_tool('deblur', tmp_path / 'bad.mp4', folder, tmp_path / 'out', '--preview', 1)
        assert result.code == 1
        assert 'bad.mp4: not a video that can be read' in result.out
        assert '1 of 2 inputs failed' in result.err
        assert len(page_clips(tmp_path / 'out.preview' / 'index.html')) == 1
        result = call_tool('deblur', tmp_path / 'bad.mp4', tmp_path / 'x.mp4', '--preview', 1)
        assert result.code == 1
        assert 'no preview: no input can be read' in result.err

    def test_preview_in_a_missing_folder(self, call_tool, folder, tmp_path):
        result = call_tool('deblur', folder, tmp_path / 'missing' / 'out', '--preview', 1)
        assert result.code == 1
        assert f'the folder {tmp_path / "missing"} does not exist; create it first' in result.err

    def test_preview_keeps_other_folders(self, call_tool, folder, tmp_path):
        mine = tmp_path / 'out.preview' / 'mine'
        mine.mkdir(parents=True)
        result = call_tool('deblur', folder, tmp_path / 'out', '--preview', 1)
        assert result.code == 1
        assert 'out.preview was not made by preview; choose another output' in result.err
        assert mine.exists()

    def test_video_with_a_part_side_by_side(self, call_tool, video, tmp_path):
        out = tmp_path / 'out.mkv'
        result = call_tool(
            'deblur', video, out, '--side-by-side', '--start', 1, '--end', 4, '--codec', 'ffv1'
        )
        assert result.code == 0, result.err
        with av.open(str(out)) as container:
            frames = [f.to_ndarray(format='rgb24') for f in container.decode(video=0)]
        assert [frame.shape for frame in frames] == [(64, 192, 3)] * 3

    def test_neighbours_outside_of_a_part_are_used(self, call_tool, folder, tmp_path):
        assert call_tool('deblur', folder, tmp_path / 'all').code == 0
        assert call_tool('deblur', folder, tmp_path / 'part', '--start', 2, '--end', 3).code == 0
        (part,), whole = frames_of(tmp_path / 'part'), frames_of(tmp_path / 'all')
        assert np.array_equal(part, whole[2])

    def test_truncated_video(self, call_tool, video, tmp_path):
        frames = [f for _ in range(8) for f in frames_of(tmp_path / 'frames')]
        path = tmp_path / 'long.mkv'
        with av.open(str(path), 'w') as container:
            stream = container.add_stream('ffv1', rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, 'bgr0'
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='rgb24')
                container.mux(stream.encode(picture.reformat(format='bgr0')))
            container.mux(stream.encode())
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        result = call_tool('deblur', path, tmp_path / 'out.mp4')
        assert result.code == 1
        count = int(result.out.split(': ')[1].split()[0])
        assert 17 <= count <= 20
        assert f'the {count} readable frames were restored' in result.err
        with av.open(str(tmp_path / 'out.mp4')) as container:
            assert len(list(container.decode(video=0))) == count

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (('none.mp4', 'out.mp4'), 'none.mp4: no such file or folder; check the path'),
            (('clip.mp4', 'clip.mp4'), 'is the input'),
            (('clip.mp4', 'far/away.mp4'), 'does not exist; create it first'),
            (('clip.mp4', 'out.mp4', '--device', 'cuda:77'), 'there is no device cuda:77'),
            (('clip.mp4', 'out.mp4', '--checkpoint', 'no.pth'), 'no checkpoint'),
            (('clip.mp4', 'out.mp4', '--checkpoint', 'clip.mp4'), 'not a checkpoint, or damaged'),
            (('clip.mp4', 'out.mp4', '--codec', 'ffv1'), 'ffv1 can only be stored in .mkv'),
            (('clip.mp4', 'frames', 'out.mp4'), '2 inputs need a folder as output'),
            (('clip.mp4', 'frames', 'out.wmv'), '2 inputs need a folder as output'),
            (('clip.mp4', 'out.gif'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('clip.mp4', 'out.WMV'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('clip.mp4', 'out.3gp'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('clip.mp4', 'out.ogv'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('clip.mp4', 'out.mp4v'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('frames', 'out.avif'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('clip.mp4', 'out.wav'), 'videos can only be written as .mp4, .mkv, .mov'),
            (('frames', 'frames/out'), 'is inside the input'),
        ],
    )
    def test_bad_input_or_output_is_refused(
        self, call_tool, video, tmp_path, monkeypatch, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        result = call_tool('deblur', *arguments)
        assert result.code == 1
        assert result.err.count('error: ') == 1
        assert message in result.err
        assert 'Traceback' not in result.err
        assert not (tmp_path / 'out.mp4').exists()

    @pytest.mark.parametrize(
        'arguments',
        [
            ('--tile', 0),
            ('--start', -1),
            ('--start', 5, '--end', 5),
            ('--fps', 0),
            ('--fps', '30/0'),
            ('--fps', '1e400'),
            ('--crf', 52),
        ],
    )
    def test_invalid_numbers_are_refused(self, call_tool, arguments):
        assert call_tool('deblur', 'a.mp4', 'b.mp4', *arguments).code == 2


class TestManyClips:
    def test_folder_of_both_kinds(self, call_tool, video, folder, tmp_path):
        given = tmp_path / 'given'
        given.mkdir()
        video.rename(given / 'a.mp4')
        folder.rename(given / 'b')
        (given / 'c.avi').write_bytes(b'no video')
        result = call_tool('deblur', given, tmp_path / 'out')
        assert result.code == 1
        assert sorted(p.name for p in (tmp_path / 'out').iterdir() if '.part' not in p.name) == [
            'a.mp4',
            'b',
        ]
        assert 'c.avi: not a video that can be read' in result.err
        assert 'error: 1 of 3 inputs failed' in result.err
        again = call_tool('deblur', given, tmp_path / 'out')
        assert again.out.count('already exists, skipped') == 2

    def test_all_videos_of_a_folder_are_restored_and_other_files_named(
        self, call_tool, video, folder, tmp_path, caplog
    ):
        given = tmp_path / 'given'
        (given / 'deep').mkdir(parents=True)
        for suffix in ('wmv', 'flv', 'MPEG', 'vob', 'gif', 'm2t'):
            with (
                av.open(str(video)) as source,
                av.open(str(given / f'{suffix}.{suffix}'), 'w') as out,
            ):
                codecs = dict(wmv='wmv2', flv='flv1', gif='gif')
                pixels = 'rgb8' if suffix == 'gif' else 'yuv420p'
                stream = out.add_stream(codecs.get(suffix, 'mpeg2video'), rate=25)
                stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
                for i, frame in enumerate(itertools.islice(source.decode(video=0), 2)):
                    picture = frame.reformat(64, 48, pixels)
                    picture.pts, picture.time_base = i, Fraction(1, 25)
                    out.mux(stream.encode(picture))
                out.mux(stream.encode(None))
        folder.rename(given / 'shots')
        video.rename(given / 'deep' / 'a.mp4')
        for name in ('notes.txt', '.hidden', 'shots/Thumbs.db'):
            (given / name).write_bytes(b'')
        result = call_tool('deblur', given, tmp_path / 'out')
        assert result.code == 0, result.err
        assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
            'MPEG.mp4', 'flv.mp4', 'gif.mp4', 'm2t.mp4', 'shots', 'vob.mp4', 'wmv.mp4'
        ]  # fmt: skip
        assert f'{given}: left out: deep, notes.txt, shots/Thumbs.db' in caplog.messages

    def test_processes_divide_the_inputs(self, call_tool, video, tmp_path, monkeypatch):
        given = tmp_path / 'given'
        given.mkdir()
        for name in 'abcde':
            (given / f'{name}.mp4').write_bytes(video.read_bytes())
        made = []
        for environment in (
            dict(RANK=1, WORLD_SIZE=2, LOCAL_RANK=1),
            dict(SLURM_ARRAY_TASK_ID=5, SLURM_ARRAY_TASK_MIN=5, SLURM_ARRAY_TASK_COUNT=2),
        ):
            with monkeypatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, str(value))
                result = call_tool('deblur', given, tmp_path / 'out')
            assert result.code == 0, result.err
            made.append(sorted(p.name for p in (tmp_path / 'out').iterdir()))
        assert made == [['b.mp4', 'd.mp4'], [f'{name}.mp4' for name in 'abcde']]

    @pytest.mark.parametrize(
        ('environment', 'made', 'printed'),
        [
            # a batch script without srun is one process, even if its job has several tasks
            (dict(SLURM_PROCID=0, SLURM_NTASKS=2), 'ab', ''),
            (dict(SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=2), 'b', 'process 1 of 2: 1 of 2 inputs'),
            (
                dict(
                    SLURM_ARRAY_TASK_ID=1,
                    SLURM_ARRAY_TASK_MIN=1,
                    SLURM_ARRAY_TASK_MAX=7,
                    SLURM_ARRAY_TASK_COUNT=3,
                ),
                '',
                'error: the Slurm array has gaps, so inputs would be skipped',
            ),
        ],
        ids=['no step', 'step', 'gaps'],
    )
    def test_slurm_tasks_divide_the_inputs(
        self, call_tool, video, tmp_path, monkeypatch, environment, made, printed
    ):
        given = tmp_path / 'given'
        given.mkdir()
        for name in 'ab':
            (given / f'{name}.mp4').write_bytes(video.read_bytes())
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        result = call_tool('deblur', given, tmp_path / 'out')
        assert printed in result.out + result.err
        assert sorted(p.stem for p in (tmp_path / 'out').glob('*')) == list(made)

    def test_next_input_is_restored_after_an_error(self, call_tool, video, tmp_path, monkeypatch):
        from dblrgan_mm.inference import restore_clip

        original = restore_clip.restore_clip

        def failing(source, *arguments, **options):
            if source.stem == 'a':
                raise MemoryError
            return original(source, *arguments, **options)

        given = tmp_path / 'given'
        given.mkdir()
        for name in 'ab':
            (given / f'{name}.mp4').write_bytes(video.read_bytes())
        monkeypatch.setattr(restore_clip, 'restore_clip', failing)
        result = call_tool('deblur', given, tmp_path / 'out')
        assert result.code == 1
        assert 'MemoryError' in result.err
        assert 'error: 1 of 2 inputs failed' in result.err
        assert [p.name for p in (tmp_path / 'out').iterdir()] == ['b.mp4']

    def test_output_into_the_input(self, call_tool, video, tmp_path):
        given = tmp_path / 'given'
        given.mkdir()
        video.rename(given / 'a.mp4')
        result = call_tool('deblur', given, given, '--overwrite')
        assert result.code == 1
        assert 'a.mp4: is the input; choose another output' in result.err

    def test_two_inputs_with_the_same_output(self, call_tool, video, tmp_path):
        (tmp_path / 'other').mkdir()
        other = tmp_path / 'other' / 'clip.mp4'
        other.write_bytes(video.read_bytes())
        result = call_tool('deblur', video, other, tmp_path / 'out')
        assert result.code == 1
        assert 'would both be written to' in result.err


@pytest.fixture
def stop_after_three(monkeypatch):
    """Return a context in which restoring is interrupted after three frames."""
    from dblrgan_mm.inference import restore_clip

    original = restore_clip.restored_frames

    def stopping(*arguments):
        for i, frame in enumerate(original(*arguments)):
            if i == 3:
                raise KeyboardInterrupt
            yield frame

    @contextlib.contextmanager
    def stopped():
        with monkeypatch.context() as patch:
            patch.setattr(restore_clip, 'restored_frames', stopping)
            yield

    return stopped


def test_interrupted_run_resumes(call_tool, folder, tmp_path, stop_after_three):
    with stop_after_three():
        result = call_tool('deblur', folder, tmp_path / 'out')
    assert result.code == 1
    assert 'the same command with --resume to continue' in result.err
    assert not (tmp_path / 'out').exists()
    assert len(list((tmp_path / 'out.part' / 'frames').iterdir())) == 3
    assert call_tool('deblur', folder, tmp_path / 'out', '--resume').code == 0
    assert call_tool('deblur', folder, tmp_path / 'whole').code == 0
    for found, expected in zip(
        frames_of(tmp_path / 'out'), frames_of(tmp_path / 'whole'), strict=True
    ):
        assert np.array_equal(found, expected)
    assert not (tmp_path / 'out.part').exists()


def test_a_resumed_run_keeps_its_dtype(call_tool, folder, tmp_path, stop_after_three, monkeypatch):
    fastest = 'dblrgan_mm.inference.deblurrer.fastest_dtype'
    monkeypatch.setattr(fastest, lambda device: torch.bfloat16)
    assert call_tool('deblur', folder, tmp_path / 'whole').code == 0
    with stop_after_three():
        call_tool('deblur', folder, tmp_path / 'out')
    monkeypatch.setattr(fastest, lambda device: torch.float32)
    assert call_tool('deblur', folder, tmp_path / 'out', '--resume').code == 0
    for found, expected in zip(
        frames_of(tmp_path / 'out'), frames_of(tmp_path / 'whole'), strict=True
    ):
        assert np.array_equal(found, expected)


@pytest.mark.slow
def test_help_answers_at_once_and_mmagic_is_not_imported(repo, folder, tmp_path):
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, repo / 'tools' / 'deblur.py', '--help'], check=True, stdout=subprocess.PIPE
    )
    assert time.perf_counter() - begin < 3  # 0.3 s on an idle machine; importing torch takes 3 s
    script = (
        'import runpy, sys\n'
        f'sys.argv = ["deblur.py", {str(folder)!r}, {str(tmp_path / "out")!r}]\n'
        f'runpy.run_path({str(repo / "tools" / "deblur.py")!r}, run_name="__main__")\n'
        'heavy = {"mmagic", "mmengine", "mmcv", "diffusers"} & set(sys.modules)\n'
        'assert "torch" in sys.modules and not heavy, heavy\n'
    )
    subprocess.run([sys.executable, '-c', script], check=True, cwd=repo)
