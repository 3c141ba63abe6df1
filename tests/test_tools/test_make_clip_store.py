"""make_clip_store.py: complete runs, stopped runs, full disks and wrong sources."""

import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.datasets import DatasetError, VideoClipDataset
from dblrgan_mm.files import sole_writer

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_clip_store.py'

# runs the tool and kills it when it reads its n-th frame
KILLED = """
import os, runpy, signal, sys
from dblrgan_mm.clips import clip_store
tool, last = sys.argv[1], int(sys.argv.pop())
read, count = clip_store.read_frame, 0
def read_frame(path):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path)
clip_store.read_frame = read_frame
sys.argv = sys.argv[1:]
runpy.run_path(tool, run_name='__main__')
"""


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / 'stores' / 'store'


@pytest.fixture
def convert(call_tool, sample_root, store):
    """Call the tool with one thread, by default on the bundled clips."""

    def call(*options, root=sample_root, layout='gopro', to=store) -> SimpleNamespace:
        tool = 'dataset_converters/make_clip_store'
        return call_tool(tool, layout, root, to, '--workers', 1, *options)

    return call


def files(folder) -> dict[str, int]:
    """Return the modification time of each file below a folder, except the lock."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob('*')
        if path.is_file() and path.name != '.lock'
    }


def error(done) -> str:
    """Return the error line of a refused conversion, without the progress bars."""
    assert done.code == 1
    assert 'converted' not in done.out
    line = done.err.rstrip('\n').replace('\r', '\n').splitlines()[-1]
    assert line.startswith('error: '), done.err
    return line.removeprefix('error: ')


def same_as_images(store, root, splits=('train', 'test')) -> None:
    for split in splits:
        stored = clip_store.load_clips('gopro', store, split)
        images = layouts.load_clips('gopro', root, split)
        assert [(clip.name, clip.frames) for clip in stored] == [
            (clip.name, clip.frames) for clip in images
        ]
        for one, other in zip(stored, images, strict=True):
            paths = zip(one.blurry + one.sharp, other.blurry + other.sharp, strict=True)
            for place, path in paths:
                np.testing.assert_array_equal(
                    clip_store.map_frame(place), cv2.imread(path)[..., ::-1]
                )


ALL = {
    'train/gopro_walk_a.npy', 'train/gopro_walk_b.npy', 'train/sam2_juggle_a.npy',
    'test/sam2_blocks_carry.npy', 'test/sam2_blocks_two_hands.npy', 'index.json',
}  # fmt: skip


class TestWhole:
    def test_training_on_the_store(self, convert, store, sample_root):
        done = convert()
        assert done.code == 0, done.err
        assert done.out == f'5 clips converted, 0 already existed: {store}\n'
        assert set(files(store)) == ALL
        same_as_images(store, sample_root)
        dataset = VideoClipDataset(data_root=str(store), split='train')
        assert len(dataset) == (12 - 4) + 2 * (10 - 4)

    def test_several_threads_write_the_same_files(
        self, convert, call_tool, store, sample_root, tmp_path
    ):
        assert convert().code == 0
        other = tmp_path / 'other'
        tool = 'dataset_converters/make_clip_store'
        assert call_tool(tool, 'gopro', sample_root, other, '--workers', 4).code == 0
        assert clip_store.read_index(other) == clip_store.read_index(store)
        same_as_images(other, sample_root)

    def test_second_run_converts_nothing(self, convert, store):
        convert()
        before = {name: time for name, time in files(store).items() if name != 'index.json'}
        done = convert()
        assert done.out == f'0 clips converted, 5 already existed: {store}\n'
        after = files(store)
        assert {name: after[name] for name in before} == before
        assert len(clip_store.load_clips('gopro', store, 'train')) == 3

    def test_splits_one_after_the_other(self, convert, store, sample_root):
        assert convert('--split', 'test').out.startswith('2 clips converted, 0 already existed')
        with pytest.raises(DatasetError, match="no split 'train', only 'test'"):
            clip_store.load_clips('gopro', store, 'train')
        assert convert('--split', 'train').out.startswith('3 clips converted, 0 already existed')
        same_as_images(store, sample_root)

    @pytest.mark.parametrize('damage', ['deleted', 'truncated'])
    def test_lost_file_is_converted_again(self, convert, store, sample_root, damage):
        convert()
        file = store / 'train' / 'gopro_walk_b.npy'
        if damage == 'deleted':
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-1])
        assert convert().out == f'1 clips converted, 4 already existed: {store}\n'
        same_as_images(store, sample_root)

    def test_frames_added_to_a_clip(self, convert, store, real_copy):
        extra = [
            real_copy / 'train' / 'gopro_walk_a' / folder / '000058.png'
            for folder in ('blur', 'sharp')
        ]
        contents = [path.read_bytes() for path in extra]
        for path in extra:
            path.unlink()
        convert('--split', 'train', root=real_copy)
        for path, content in zip(extra, contents, strict=True):
            path.write_bytes(content)
        assert convert('--split', 'train', root=real_copy).out.startswith('1 clips converted, 0')
        same_as_images(store, real_copy, ['train'])

    def test_unpaired(self, convert, store, real_copy):
        sharp = real_copy / 'train' / 'gopro_walk_a' / 'sharp'
        sharp.rename(real_copy / 'kept')
        assert convert('--split', 'train', '--unpaired', root=real_copy).code == 0
        assert np.load(store / 'train' / 'gopro_walk_a.npy').shape == (1, 12, 144, 254, 3)
        assert len(VideoClipDataset(data_root=str(store), split='train', gt=None)) == 8
        with pytest.raises(DatasetError, match=r'clip gopro_walk_a of .* has no sharp frames'):
            VideoClipDataset(data_root=str(store), split='train')
        (real_copy / 'kept').rename(sharp)
        assert convert('--split', 'train', root=real_copy).out.startswith('1 clips converted, 0')
        same_as_images(store, real_copy, ['train'])

    def test_other_layout_with_arguments(self, convert, store, tmp_path, lay_out, sample_root):
        frame = cv2.imread(str(sample_root / 'train/gopro_walk_a/blur/000050.png'))
        for split in ('train', 'valid', 'test'):
            lay_out(
                tmp_path, 'bsd', '007', range(3), [(frame, frame)], exposure='1ms8ms', split=split
            )
        option = ('--layout-args', 'exposure=1ms8ms')
        assert convert(*option, root=tmp_path, layout='bsd').out.startswith('3 clips converted')
        (clip,) = clip_store.load_clips('bsd', store, 'valid', exposure='1ms8ms')
        np.testing.assert_array_equal(clip_store.map_frame(clip.sharp[2]), frame[..., ::-1])

    def test_single_clip_without_a_name(self, convert, store, real_copy):
        """An own clip, found by a pattern with neither {clip} nor {split}."""
        root = real_copy / 'train' / 'gopro_walk_a'
        patterns = dict(blurry='blur/{frame}.png', sharp='sharp/{frame}.png')
        options = [f'{side}={pattern}' for side, pattern in patterns.items()]
        done = convert('--layout-args', *options, root=root, layout='patterns')
        assert done.code == 0, done.err
        (clip,) = clip_store.load_clips('patterns', store, '', **patterns)
        assert len(clip.frames) == 12


class TestStopped:
    """A partial store is not a data set; the same command continues it."""

    def test_interrupted(self, convert, store, sample_root, monkeypatch):
        honest, calls = clip_store.write_clip, []

        def write_clip(clip, *arguments):
            calls.append(clip.name)
            if len(calls) >= 3:
                raise KeyboardInterrupt
            return honest(clip, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(clip_store, 'write_clip', write_clip)
            assert convert().code == 130
        assert calls[:3] == ['gopro_walk_a', 'gopro_walk_b', 'sam2_juggle_a']
        before = files(store)
        assert set(before) == {'train/gopro_walk_a.npy', 'train/gopro_walk_b.npy', 'index.json'}
        for split in ('train', 'test'):
            with pytest.raises(DatasetError, match=f"holds only part of split '{split}'"):
                VideoClipDataset(data_root=str(store), split=split)
        assert convert().out == f'3 clips converted, 2 already existed: {store}\n'
        after = files(store)
        assert set(after) == ALL
        for name in ('train/gopro_walk_a.npy', 'train/gopro_walk_b.npy'):
            assert after[name] == before[name], 'not written again'
        same_as_images(store, sample_root)

    def test_killed(self, convert, store, sample_root):
        """SIGKILL while it reads the seventh frame of the third clip."""
        frame = 5 + 24 + 20 + 7  # first one frame per clip, to compute the space needed
        command = [TOOL, 'gopro', sample_root, store, '--workers', '1', str(frame)]
        killed = subprocess.run([sys.executable, '-c', KILLED, *command], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        before = files(store)
        assert 'train/gopro_walk_a.npy' in before
        assert 'train/sam2_juggle_a.npy' not in before
        assert 'train/sam2_juggle_a.partial' in before
        with pytest.raises(DatasetError, match="holds only part of split 'train'"):
            VideoClipDataset(data_root=str(store), split='train')
        done = convert()
        assert done.code == 0, done.err
        after = files(store)
        assert set(after) == ALL, 'and nothing is left of the half clip'
        assert after['train/gopro_walk_a.npy'] == before['train/gopro_walk_a.npy']
        same_as_images(store, sample_root)

    def test_interrupted_new_split_keeps_the_finished_split(
        self, convert, store, sample_root, monkeypatch
    ):
        convert('--split', 'test')

        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(clip_store, 'write_clip', stop)
        assert convert('--split', 'train').code == 130
        same_as_images(store, sample_root, ['test'])


class TestDisk:
    NEEDED = 128 * 5 + 2 * 144 * 3 * (12 * 254 + 10 * 254 + 10 * 256 + 2 * 10 * 256)

    def free(self, monkeypatch, count) -> None:
        monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=count))

    def test_too_little_space_is_reported_before_writing(self, convert, store, monkeypatch):
        self.free(monkeypatch, self.NEEDED - 1)
        assert error(convert()) == (
            f'11 MB are needed in {store}, but its disk has 11 MB free: free some space, or choose '
            'a folder on another disk'
        )
        assert files(store) == {}
        self.free(monkeypatch, self.NEEDED)
        assert convert().code == 0
        assert sum((store / name).stat().st_size for name in ALL - {'index.json'}) == self.NEEDED

    def test_existing_files_need_no_free_space(self, convert, monkeypatch):
        convert()
        self.free(monkeypatch, 0)
        assert convert().code == 0

    @pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
    def test_disk_full_during_a_clip(self, convert, store, sample_root, monkeypatch, number):
        """The disk becomes full at the 17th frame of the second clip."""
        honest, written = clip_store._HashedFile.write, []

        def write(file, data):
            written.append(1)
            if len(written) >= 1 + 24 + 1 + 17:
                raise OSError(number, 'No space left on device')
            honest(file, data)

        with monkeypatch.context() as patch:
            patch.setattr(clip_store._HashedFile, 'write', write)
            done = convert()
        assert error(done) == (
            f'the disk of {store} is full. Finished files are kept; free some space and run the '
            'same command again to continue'
        )
        before = files(store)
        assert set(before) == {'train/gopro_walk_a.npy', 'index.json'}
        assert convert().out == f'4 clips converted, 1 already existed: {store}\n'
        assert files(store)['train/gopro_walk_a.npy'] == before['train/gopro_walk_a.npy']
        same_as_images(store, sample_root)

    def test_disk_full_before_the_first_clip(self, convert, store, sample_root, monkeypatch):
        """A quota is exceeded; the free space of the disk does not show it."""

        def full(*_):
            raise OSError(errno.EDQUOT, 'Disk quota exceeded')

        with monkeypatch.context() as patch:
            patch.setattr(clip_store.os, 'fsync', full)
            assert 'is full' in error(convert())
        done = convert()
        assert done.code == 0, done.err
        same_as_images(store, sample_root)


class TestRefused:
    def test_second_conversion_into_the_same_store(self, convert, store):
        with sole_writer(store):
            assert error(convert()) == (
                f'another process is writing to {store}: wait for it, or choose another folder'
            )
        assert files(store) == {}
        assert convert().code == 0

    def test_store_is_not_empty(self, convert, store):
        store.mkdir(parents=True)
        (store / 'thesis.tex').write_text('x')
        message = f'{store} is neither empty nor a clip store; choose another folder'
        assert error(convert()) == message
        assert set(files(store)) == {'thesis.tex'}

    def test_store_folder_holds_a_data_set(self, convert, real_copy):
        before = files(real_copy)
        message = error(convert('--split', 'train', root=real_copy, to=real_copy))
        assert message == f'{real_copy} is neither empty nor a clip store; choose another folder'
        assert files(real_copy) == before

    def test_source_is_a_store(self, convert, sample_store, store):
        assert error(convert(root=sample_store)) == (
            f'{sample_store} is a clip store; give the data set it was made from'
        )
        assert not store.exists()

    def test_wrong_root(self, convert, sample_root, store):
        assert f'Did you mean the folder {sample_root}?' in error(convert(root=sample_root.parent))
        assert not store.exists()

    def test_missing_partner(self, convert, real_copy, store):
        (real_copy / 'train' / 'gopro_walk_a' / 'sharp' / '000051.png').unlink()
        message = error(convert('--split', 'train', root=real_copy))
        assert message.startswith('clip gopro_walk_a: 12 blurry frames but 11 sharp ones')
        assert not store.exists()

    @pytest.mark.parametrize('frame', ['000047', '000051'])
    @pytest.mark.parametrize('folder', ['blur', 'sharp'])
    def test_truncated_frame(self, convert, real_copy, store, frame, folder):
        path = real_copy / 'train' / 'gopro_walk_a' / folder / f'{frame}.png'
        path.write_bytes(path.read_bytes()[:20_000])
        message = error(convert('--split', 'train', root=real_copy))
        assert message == (
            f'clip gopro_walk_a, frame {frame}: {path} cannot be decoded: truncated, or not an '
            'image. Copy it again.'
        )
        assert not [name for name in files(store) if name != 'index.json']

    def test_sharp_frames_are_not_lost(self, convert, store, real_copy):
        convert('--split', 'train', root=real_copy)
        before = files(store)
        assert error(convert('--split', 'train', '--unpaired', root=real_copy)) == (
            f'{store} holds the sharp frames of clip gopro_walk_a, which would be lost; choose '
            'another folder, or omit --unpaired'
        )
        assert files(store) == before

    @pytest.mark.parametrize('workers', ['0', '-1'])
    def test_no_workers(self, convert, store, real_copy, workers):
        done = convert('--split', 'train', '--workers', workers, root=real_copy)
        assert done.code == 2
        assert f'--workers: must be at least 1, got {workers}' in done.err

    def test_other_layout_args(self, convert, store, real_copy):
        convert('--split', 'train', root=real_copy)
        clip = real_copy / 'train' / 'gopro_walk_a'
        shutil.copytree(clip / 'sharp', clip / 'blur_gamma')
        before = files(store)
        options = ('--split', 'train', '--layout-args', 'blur=blur_gamma')
        message = error(convert(*options, root=real_copy))
        assert message.startswith(f'the clip store {store} was made from the gopro layout with no ')
        assert "but gopro with {'blur': 'blur_gamma'} was requested" in message
        assert files(store) == before

    def test_other_data_set_of_the_same_layout(self, convert, store, real_copy):
        convert()
        before = files(store)
        message = error(convert('--split', 'train', root=real_copy))
        assert f"{store} holds a clip gopro_walk_b in split 'train' that this" in message
        assert files(store) == before

    def test_index_json_of_another_tool(self, convert, store):
        store.mkdir(parents=True)
        (store / 'index.json').write_text('{"pages": []}')
        assert f'{store}/index.json is not a clip store index' in error(convert())
        assert (store / 'index.json').read_text() == '{"pages": []}'

    def test_unknown_split(self, convert, store):
        assert "no split 'val', only train, test" in error(convert('--split', 'val'))
        assert not store.exists()
