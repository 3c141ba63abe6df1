"""Soft source frames are found; sharp ones are kept."""

import cv2
import numpy as np
import pytest

from dblrgan_mm.synthesis.scan import find_soft, sharpness


def walk(sample_root):
    """Return the sharp frames of a real clip, filmed while walking."""
    paths = sorted((sample_root / 'train/gopro_walk_a/sharp').iterdir())
    return [cv2.imread(str(path)) for path in paths]


def pan(sample_root, count=40, speed=2):
    """Return a window, 160 pixels wide, that moves over a real picture."""
    image = walk(sample_root)[3]
    return [image[:, speed * i : speed * i + 160] for i in range(count)]


def soft_ones(frames, cuts=(), max_softness=0.15):
    """Return the numbers of the soft frames; there is a cut before each frame in ``cuts``."""
    cut = np.isin(np.arange(1, len(frames)), cuts)
    values = np.array([sharpness(frame) for frame in frames])
    return np.flatnonzero(find_soft(values, cut, max_softness)).tolist()


def out_of_focus(frame):
    return cv2.GaussianBlur(frame, (0, 0), 0.7)


def shaken(frame):
    return cv2.blur(frame, (3, 1))


@pytest.mark.parametrize('harm', [out_of_focus, shaken])
@pytest.mark.parametrize('place', [0, 1, 5, 11])
def test_a_soft_frame_is_found(sample_root, harm, place):
    frames = walk(sample_root)
    frames[place] = harm(frames[place])
    assert soft_ones(frames) == [place]


def test_neighbouring_soft_frames_are_found(sample_root):
    frames = pan(sample_root)
    frames[20:24] = [out_of_focus(frame) for frame in frames[20:24]]
    assert soft_ones(frames) == [20, 21, 22, 23]


def test_real_clip_keeps_its_frames(sample_root):
    assert soft_ones(walk(sample_root)) == []


@pytest.mark.parametrize('speed', [1, 2])
def test_pan_keeps_its_frames(sample_root, speed):
    assert soft_ones(pan(sample_root, speed=speed)) == []


def test_shots_are_compared_with_themselves(sample_root):
    soft_shot = [out_of_focus(out_of_focus(frame)) for frame in walk(sample_root)]
    frames = [*walk(sample_root), *soft_shot]
    assert soft_ones(frames, cuts=[12]) == []
    assert 12 in soft_ones(frames)


@pytest.mark.parametrize('count', [0, 1, 2])
def test_few_frames(sample_root, count):
    assert soft_ones(walk(sample_root)[:count]) == []


def test_softness_1_finds_none(sample_root):
    frames = walk(sample_root)
    frames[5] = cv2.blur(frames[5], (9, 9))
    assert soft_ones(frames, max_softness=1) == []
