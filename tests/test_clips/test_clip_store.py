import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.clips.clip_store import map_frame, write_clip
from dblrgan_mm.errors import DatasetError


@pytest.fixture
def clip(real_copy):
    """Twelve pairs of 254x144."""
    (clip,) = layouts.load_clips('gopro', real_copy, 'train')
    return clip


@pytest.fixture
def file(real_store) -> Path:
    return real_store / 'train' / 'gopro_walk_a.npy'


def load(store, split='train', layout='gopro', **arguments) -> list:
    return clip_store.load_clips(layout, store, split, **arguments)


def message(store, *arguments, **keywords) -> str:
    with pytest.raises(DatasetError) as caught:
        load(store, *arguments, **keywords)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def change_index(store, change) -> None:
    path = store / 'index.json'
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


class TestLoad:
    def test_same_clips_as_from_the_images(self, sample_root, sample_store):
        for split in ('train', 'test'):
            images = layouts.load_clips('gopro', sample_root, split)
            stored = load(sample_store, split)
            assert [(c.name, c.frames) for c in stored] == [(c.name, c.frames) for c in images]
            for one, other in zip(stored, images, strict=True):
                for places, paths in ((one.blurry, other.blurry), (one.sharp, other.sharp)):
                    for place, path in zip(places, paths, strict=True):
                        assert clip_store.is_place(place)
                        assert not clip_store.is_place(path)
                        frame = map_frame(place)
                        np.testing.assert_array_equal(frame, cv2.imread(path)[..., ::-1])

    def test_line_break_in_the_path(self, real_store, tmp_path):
        moved = real_store.rename(tmp_path / 'a\nb')
        assert map_frame(load(moved)[0].blurry[3]).std() > 5

    def test_no_place(self):
        with pytest.raises(ValueError, match='is not a place in a clip store'):
            map_frame('clip.npy#3')

    def test_numpy_reads_it(self, clip, file):
        """As documented in docs/clip_store.md."""
        array = np.load(file, mmap_mode='r')
        assert (array.shape, array.dtype) == ((2, 12, 144, 254, 3), np.uint8)
        for side, paths in enumerate((clip.blurry, clip.sharp)):
            np.testing.assert_array_equal(array[side, 5], cv2.imread(paths[5])[..., ::-1])

    def test_moved_store(self, real_store, tmp_path):
        real_store.rename(tmp_path / 'elsewhere')
        (clip,) = load(tmp_path / 'elsewhere')
        assert map_frame(clip.blurry[0]).std() > 5

    def test_sharp_frames_not_requested(self, real_store):
        (clip,) = load(real_store, paired=False)
        assert (len(clip.blurry), clip.sharp) == (12, None)


class TestArguments:
    @pytest.mark.parametrize('made', [{}, dict(blur='blur')])
    @pytest.mark.parametrize('asked', [{}, dict(blur='blur')])
    def test_explicit_default_is_accepted(self, real_store, made, asked):
        change_index(real_store, lambda index: index.update(layout_args=made))
        assert len(load(real_store, **asked)) == 1

    def test_other_arguments_are_refused(self, real_store):
        change_index(real_store, lambda index: index.update(layout_args=dict(blur='blur_gamma')))
        assert "was made from the gopro layout with {'blur': 'blur_gamma'}" in message(real_store)


class TestIndexErrors:
    def test_no_split(self, real_store):
        assert message(real_store, 'test') == (
            f"the clip store {real_store} has no split 'test', only 'train'. To convert it, "
            'see docs/clip_store.md.'
        )

    def test_incomplete_conversion(self, real_store):
        change_index(real_store, lambda index: index['splits']['train'].update(complete=False))
        assert message(real_store) == (
            f"the clip store {real_store} holds only part of split 'train': its conversion is "
            'incomplete. Run the same conversion again to resume it.'
        )

    def test_other_layout(self, real_store):
        assert message(real_store, layout='dvd') == (
            f'the clip store {real_store} was made from the gopro layout with no layout_args, '
            'but dvd with no layout_args was requested. Request what the store was made from, or '
            'convert the data set into another folder.'
        )

    def test_other_layout_args(self, real_store):
        found = message(real_store, blur='blur_gamma')
        assert "layout with no layout_args, but gopro with {'blur': 'blur_gamma'} was" in found

    def test_unpaired(self, real_store, clip):
        entry = write_clip(replace(clip, sharp=None), real_store / 'train' / 'gopro_walk_a.npy')
        change_index(
            real_store,
            lambda index: index['splits']['train']['clips']['gopro_walk_a'].update(entry),
        )
        (found,) = load(real_store, paired=False)
        np.testing.assert_array_equal(
            map_frame(found.blurry[11]), cv2.imread(clip.blurry[11])[..., ::-1]
        )
        assert message(real_store) == (
            f'clip gopro_walk_a of the clip store {real_store} has no sharp frames'
        )

    @pytest.mark.parametrize('path', ['{parent}/secret.npy', '../secret.npy', 'a/../../secret.npy'])
    def test_file_outside_of_the_store(self, real_store, path):
        path = path.format(parent=real_store.parent)
        (real_store.parent / 'secret.npy').write_bytes(
            (real_store / 'train' / 'gopro_walk_a.npy').read_bytes()
        )
        change_index(
            real_store,
            lambda index: index['splits']['train']['clips']['gopro_walk_a'].update(file=path),
        )
        found = message(real_store)
        assert found.startswith(
            f'clip gopro_walk_a: the index of the clip store {real_store} names'
        )
        assert f'{path}, which is not opened' in found

    @pytest.mark.parametrize(
        'text',
        [
            '', '{"format": "dblrgan_mm clip', '[]', 'null', '3', '{"splits": {}}',
            '{"format": "web cache"}', '{"format": "dblrgan_mm clip store, version 2"}',
        ],
    )  # fmt: skip
    def test_index_json_of_another_tool(self, real_store, text):
        (real_store / 'index.json').write_text(text)
        found = message(real_store)
        assert found.startswith(f'{real_store}/index.json is not a clip store index (')
        assert found.endswith('). Convert the data set again.')

    def test_binary_index(self, real_store):
        (real_store / 'index.json').write_bytes(b'\xff\xfe\x00index')
        assert f'{real_store}/index.json is not a clip store index' in message(real_store)

    def test_index_without_a_required_key(self, real_store):
        text = '{"format": "dblrgan_mm clip store, version 1"}'
        (real_store / 'index.json').write_text(text)
        assert f'{real_store}/index.json is not a clip store index (' in message(real_store)


class TestFileErrors:
    """Each error is found when a run starts, and also when a frame is read."""

    END = 'Delete it and run the conversion again.'
    SIZE = 128 + 2 * 12 * 144 * 254 * 3

    @pytest.fixture
    def expect_error(self, real_store, file):
        place = load(real_store)[0].blurry[3]

        def check(at_start: str, at_reading: str | None = None) -> None:
            assert message(real_store) == f'clip gopro_walk_a: {file} {at_start}'
            with pytest.raises(ValueError) as caught:  # noqa: PT011  (callers check the message)
                map_frame(place)
            assert str(caught.value) == f'{file} {at_reading or at_start}'

        return check

    def test_missing(self, file, expect_error):
        file.unlink()
        expect_error('is missing from the clip store. Copy it, or run the conversion again.')

    @pytest.mark.parametrize('change', [-1, 1])
    def test_another_size(self, file, expect_error, change):
        content = file.read_bytes() + b'x'
        file.write_bytes(content[: self.SIZE + change])
        expect_error(
            f'has {self.SIZE + change} bytes, but its header says {self.SIZE}: the file was '
            'truncated or extended. Copy it again, or delete it and run the conversion again.'
        )

    @pytest.mark.parametrize('content', [b'', b'<html>404</html>', b'x' * SIZE])
    def test_not_a_store_file(self, file, real_store, content):
        file.write_bytes(content)
        found = message(real_store)
        assert found.startswith(f'clip gopro_walk_a: {file} is not a clip store file (')
        assert found.endswith(f'). {self.END}')

    def test_truncated_header(self, file, real_store):
        file.write_bytes(file.read_bytes()[:100])
        assert f'{file} is not a clip store file (' in message(real_store)

    def test_other_dtype(self, file, expect_error):
        np.save(file, np.zeros((2, 12, 144, 254, 3), np.float16))
        expect_error(
            'is not a clip store file (it holds an array of shape (2, 12, 144, 254, 3) and type '
            f'float16). {self.END}'
        )

    def test_other_number_of_axes(self, file, expect_error):
        np.save(file, np.zeros((24, 144, 254, 3), np.uint8))
        expect_error(
            'is not a clip store file (it holds an array of shape (24, 144, 254, 3) and type '
            f'uint8). {self.END}'
        )

    def test_fortran_order(self, file, real_store):
        np.save(file, np.zeros((2, 12, 144, 254, 3), np.uint8, order='F'))
        assert f'{file} is not a clip store file (it holds' in message(real_store)

    def test_file_of_another_clip(self, file, real_store):
        """The file can be read, but it does not match the index."""
        np.save(file, np.zeros((2, 11, 144, 254, 3), np.uint8))
        assert message(real_store) == (
            f'clip gopro_walk_a: {file} holds an array of shape (2, 11, 144, 254, 3), but the '
            f'index says (2, 12, 144, 254, 3): the file belongs to another store. {self.END}'
        )

    def test_folder_instead_of_file(self, file, real_store):
        file.unlink()
        file.mkdir()
        assert f'clip gopro_walk_a: {file} is not a clip store file' in message(real_store)


class TestMapFrame:
    def test_writing_to_it_changes_nothing_else(self, real_store, file):
        before = file.read_bytes()
        place = load(real_store)[0].sharp[2]
        frame, other = map_frame(place), map_frame(place)
        original = other.copy()
        frame[10:20] = 255 - frame[10:20]
        cv2.flip(frame, 1, frame)
        np.testing.assert_array_equal(other, original)
        np.testing.assert_array_equal(map_frame(place), original)
        del frame
        assert file.read_bytes() == before

    def test_read_only_file(self, real_store, file):
        """Reading works for a shared store of another user."""
        file.chmod(0o444)
        frame = map_frame(load(real_store)[0].blurry[0])
        frame[:] = 0
        assert map_frame(load(real_store)[0].blurry[0]).any()

    def test_is_a_plain_array(self, real_store):
        """Transforms check for ndarray, and a copy of a memmap would remain a memmap."""
        frame = map_frame(load(real_store)[0].blurry[0])
        assert type(frame) is np.ndarray
        assert (frame.shape, frame.dtype) == ((144, 254, 3), np.uint8)
        assert frame.flags.writeable
        assert frame.flags.c_contiguous


class TestWriteClip:
    def leftovers(self, folder) -> set[str]:
        return {path.name for path in folder.rglob('*') if path.is_file()}

    def test_entry(self, clip, tmp_path):
        frames = []
        file = tmp_path / 'new' / 'train' / 'a.b.npy'
        entry = write_clip(clip, file, lambda: frames.append(1))
        assert entry == dict(
            frames=[f'{n:06d}' for n in range(47, 59)],
            shape=[2, 12, 144, 254, 3],
            sha256=clip_store.sha256(file),
        )
        assert len(frames) == 24
        assert self.leftovers(tmp_path / 'new') == {'a.b.npy'}
        assert file.stat().st_size == clip_store.stored_bytes(clip)

    @pytest.mark.parametrize(
        ('spoil', 'reason'),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:9000]), 'cannot be decoded: trunc'),
            (lambda path: path.unlink(), 'does not exist'),
            (lambda path: cv2.imwrite(str(path), cv2.imread(str(path), 0)), 'is a grey image'),
            (
                lambda path: cv2.imwrite(str(path), cv2.imread(str(path))[:, :200]),
                'has 200x144 pixels, but the first frame has 254x144. All frames of a clip must',
            ),
        ],
        ids=['truncated', 'missing', 'grey', 'smaller'],
    )
    @pytest.mark.parametrize('side', ['blurry', 'sharp'])
    def test_fault_leaves_the_old_file(self, clip, real_store, file, spoil, reason, side):
        before, names = file.read_bytes(), self.leftovers(real_store)
        path = getattr(clip, side)[4]
        spoil(Path(path))
        with pytest.raises(DatasetError) as caught:
            write_clip(clip, file)
        assert str(caught.value).startswith(f'clip gopro_walk_a, frame 000051: {path} {reason}')
        assert file.read_bytes() == before
        assert self.leftovers(real_store) == names

    @pytest.mark.parametrize('when', ['writing', 'flushing'])
    def test_full_disk(self, clip, real_store, file, monkeypatch, when):
        before, names = file.read_bytes(), self.leftovers(real_store)

        def full(*_):
            raise OSError(errno.ENOSPC, 'No space left on device')

        if when == 'writing':
            monkeypatch.setattr(clip_store._HashedFile, 'write', full)
        else:
            monkeypatch.setattr(clip_store.os, 'fsync', full)
        with pytest.raises(OSError, match='No space left'):
            write_clip(clip, file)
        assert file.read_bytes() == before
        assert self.leftovers(real_store) == names

    def test_disk_that_returns_other_bytes(self, clip, real_store, file, monkeypatch):
        before, names = file.read_bytes(), self.leftovers(real_store)
        honest = clip_store.sha256

        def flip_a_bit_first(part):
            content = bytearray(part.read_bytes())
            content[5000] ^= 1
            part.write_bytes(content)
            return honest(part)

        monkeypatch.setattr(clip_store, 'sha256', flip_a_bit_first)
        with pytest.raises(OSError, match='does not contain what was written to it; check the'):
            write_clip(clip, file)
        assert file.read_bytes() == before
        assert self.leftovers(real_store) == names

    def test_interrupted(self, clip, real_store, file):
        before, names = file.read_bytes(), self.leftovers(real_store)

        def interrupt():
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_clip(clip, file, interrupt)
        assert file.read_bytes() == before
        assert self.leftovers(real_store) == names

    def test_checksum_finds_a_flipped_bit(self, real_store, file):
        index = clip_store.read_index(real_store)
        entry = index['splits']['train']['clips']['gopro_walk_a']
        assert clip_store.sha256(file) == entry['sha256']
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        assert clip_store.sha256(file) != entry['sha256']
        assert len(load(real_store)) == 1, 'the size alone does not show it'

    def test_checksum_is_that_of_the_whole_file(self, file):
        """As documented in docs/clip_store.md: SHA-256 of the whole file."""
        assert clip_store.sha256(file) == hashlib.sha256(file.read_bytes()).hexdigest()


class TestWriteIndex:
    def test_full_disk_leaves_the_old_index(self, real_store, monkeypatch):
        before = clip_store.read_index(real_store)

        def full(*_):
            raise OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(clip_store.os, 'fsync', full)
        with pytest.raises(OSError, match='No space left'):
            clip_store.write_index(real_store, clip_store.new_index('dvd', {}))
        assert clip_store.read_index(real_store) == before
