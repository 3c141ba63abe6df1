"""Frames that another program restored, as a method of a comparison."""

import json
import logging
import shutil

import cv2
import numpy as np
import pytest

from dblrgan_mm.clips import clip_store
from dblrgan_mm.comparison.outside import Folder
from dblrgan_mm.errors import UserError


@pytest.fixture
def clip(sample_root):
    clips = clip_store.load_any('gopro', sample_root, 'test')
    return next(clip for clip in clips if clip.name == 'sam2_blocks_carry')


@pytest.fixture
def folder(tmp_path, clip):
    """The blurry frames of the clip, as if restored."""
    folder = tmp_path / 'frames' / 'blocks' / clip.name
    folder.mkdir(parents=True)
    for path in clip.blurry:
        shutil.copy(path, folder)
    return folder


def places(folder, clip, root=2, only=False):
    return Folder('other', str(folder.parents[root - 1])).places('blocks', clip, only)


class TestPlaces:
    @pytest.mark.parametrize('root', [1, 2])
    def test_by_name(self, folder, clip, root, caplog):
        found = places(folder, clip, root)
        assert found == [str(folder / f'{frame}.png') for frame in clip.frames]
        assert not caplog.messages

    def test_of_the_only_clip(self, folder, clip):
        method = Folder('other', str(folder))
        assert method.places('blocks', clip, only=True) == places(folder, clip)
        with pytest.raises(UserError, match=f'no frames of clip {clip.name} in any of: '):
            method.places('blocks', clip, only=False)

    def test_by_order(self, folder, clip, caplog):
        expected = [clip_store.read_any(place) for place in clip.blurry]
        for number, frame in enumerate(clip.frames):
            (folder / f'{frame}.png').rename(folder / f'out{number + 1}.png')
        with caplog.at_level(logging.WARNING, 'dblrgan_mm'):
            found = places(folder, clip)
        for path, image in zip(found, expected, strict=True):
            assert np.array_equal(clip_store.read_any(path), image)
        assert f'matched by order, out1.png to {clip.frames[0]}' in caplog.text

    def test_fewer_frames(self, folder, clip):
        (folder / f'{clip.frames[3]}.png').unlink()
        with pytest.raises(UserError, match=f'has 10: frame {clip.frames[3]} is missing'):
            places(folder, clip)

    def test_more_frames(self, folder, clip):
        shutil.copy(folder / f'{clip.frames[3]}.png', folder / 'extra.png')
        with pytest.raises(
            UserError, match=r'11 frames, but clip .* has 10; extra.png is not one of them'
        ):
            places(folder, clip)

    def test_two_files_of_one_frame(self, folder, clip):
        cv2.imwrite(str(folder / f'{clip.frames[3]}.jpg'), np.zeros((144, 256, 3), np.uint8))
        with pytest.raises(UserError, match=f'{clip.frames[3]}.(png|jpg) is not one of them'):
            places(folder, clip)

    def test_other_names_and_number(self, folder, clip):
        for number, frame in enumerate(clip.frames[1:]):
            (folder / f'{frame}.png').rename(folder / f'out{number}.png')
        (folder / f'{clip.frames[0]}.png').unlink()
        with pytest.raises(UserError, match=r'9 frames, but .* has 10, and no file name is that'):
            places(folder, clip)

    def test_another_size(self, folder, clip):
        cv2.imwrite(str(folder / f'{clip.frames[5]}.png'), np.zeros((72, 128, 3), np.uint8))
        with pytest.raises(UserError, match=rf'{clip.frames[5]}.png: 128x72, but clip .* 256x144'):
            places(folder, clip)

    def test_a_file_that_is_no_image(self, folder, clip):
        (folder / f'{clip.frames[5]}.png').write_bytes(b'none')
        with pytest.raises(UserError, match=rf'{clip.frames[5]}.png: cannot be read'):
            places(folder, clip)


class TestCost:
    def test_empty(self, tmp_path):
        cost = Folder('other', str(tmp_path)).cost(['a', 'b'])
        assert cost == dict(parameters=None, data=dict(a={}, b={}))

    def test_stated(self, tmp_path):
        stated = dict(parameters=22e6, data=dict(a=dict(macs=1e11, fps=0.5)))
        (tmp_path / 'cost.json').write_text(json.dumps(stated))
        cost = Folder('other', str(tmp_path)).cost(['a', 'b'])
        assert cost == dict(parameters=22e6, data=dict(a=dict(macs=1e11, fps=0.5), b={}))

    @pytest.mark.parametrize(
        'content',
        ['{', '[]', '{"data": 1}', '{"data": {"a": 1}}', '{"weights": 1}', '{"parameters": "22M"}',
         '{"data": {"a": {"speed": 1}}}'],
    )  # fmt: skip
    def test_invalid(self, tmp_path, content):
        (tmp_path / 'cost.json').write_text(content)
        with pytest.raises(UserError, match=r'cost\.json: '):
            Folder('other', str(tmp_path)).cost(['a'])
