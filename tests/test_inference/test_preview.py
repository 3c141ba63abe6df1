"""Previews: a few restored frames of a clip."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.inference.preview import duration, preview
from dblrgan_mm.inference.restore_clip import Options, restored_frames
from dblrgan_mm.video.reading import open_clip

RATE = Fraction(30000, 1001)


@pytest.fixture(scope='module')
def deblurrer() -> Deblurrer:
    return Deblurrer.from_checkpoint('dblrnet_plus', 'cpu', 'float32')


def read(path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1]


def assert_as_restored_whole(found, source, deblurrer, numbers, options=None) -> None:
    """Compare with the frames of a run over the whole clip; the numbers count from its start."""
    whole = list(restored_frames(open_clip(source), deblurrer, Options()))
    blurry = [frame.image for frame in open_clip(source)]
    for number, before, after in zip(
        numbers, found.clip.images['blurry'], found.clip.images['restored'], strict=True
    ):
        assert np.array_equal(read(before), blurry[number])
        assert np.array_equal(read(after), whole[number].image)


# few and many key frames; AVI does not store when frames are shown that are stored out of order
@pytest.mark.parametrize(
    'name', ['a.mp4', 'a.mkv', 'a.avi', 'a.ts', 'a.h264'], ids=lambda name: name.split('.')[1]
)
@pytest.mark.parametrize('gop', [1, 5, 250])
def test_of_a_video(tmp_path, walk, write_video, deblurrer, name, gop):
    frames = [image[::2, ::2].copy() for image in walk] * 2
    options = {'crf': '10', 'g': str(gop)} | ({'bf': '0'} if name == 'a.avi' else {})
    source = write_video(tmp_path / name, frames, time_base=1 / RATE, options=options)
    steps = []
    found = preview(source, tmp_path / 'out', deblurrer, 4, progress=lambda: steps.append(1))
    assert found.frames == 24
    assert len(steps) == 4
    assert_as_restored_whole(found, source, deblurrer, [3, 9, 15, 21])
    assert len(set(found.clip.frames)) == 4
    if name == 'a.mp4':
        assert list(found.clip.frames) == ['0:00.10', '0:00.30', '0:00.50', '0:00.70']
    assert found.estimate.startswith('24 frames, restoring all of them takes about ')


def test_of_images(sample_root, tmp_path, deblurrer):
    source = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    found = preview(source, tmp_path / 'out', deblurrer, 100)
    assert found.frames == len(found.clip.frames) == 12, 'the whole clip'
    assert found.clip.frames[0] == sorted(source.iterdir())[0].name
    assert_as_restored_whole(found, source, deblurrer, range(12))
    found = preview(source, tmp_path / 'two', deblurrer, 2, Options(start=4, end=8))
    assert found.frames == 4
    assert_as_restored_whole(found, source, deblurrer, [5, 7])


def test_of_one_image(tmp_path, walk, deblurrer):
    cv2.imwrite(str(tmp_path / 'a.png'), walk[0])
    found = preview(tmp_path / 'a.png', tmp_path / 'out', deblurrer, 3)
    assert found.clip.frames == ['a.png']


def test_beyond_the_end(sample_root, tmp_path, deblurrer):
    source = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    with pytest.raises(UserError, match='has no frame at or after --start 12'):
        preview(source, tmp_path, deblurrer, 2, Options(start=12))


def test_video_that_ends_early(tmp_path, walk, write_video, deblurrer):
    source = write_video(tmp_path / 'a.ts', [*walk] * 4, options={'crf': '10', 'g': '5'})
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    found = preview(source, tmp_path / 'out', deblurrer, 3)
    assert len(found.clip.frames) == 3
    assert found.frames < 40


def test_centre_takes_one_window(deblurrer):
    frame = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert deblurrer.centre([frame] * 5).shape == (3, 8, 8)
    with pytest.raises(ValueError, match='takes windows of 5 frames, got 4'):
        deblurrer.centre([frame] * 4)


@pytest.mark.parametrize(
    ('seconds', 'expected'),
    [(0.2, '1 s'), (89, '89 s'), (100, '2 min'), (3570, '1 h 0 min'), (7900, '2 h 12 min')],
)
def test_duration(seconds, expected):
    assert duration(seconds) == expected
