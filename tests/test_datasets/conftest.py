"""Clips in GoPro's layout: real ones to spoil, and small ones that say where a pixel is from."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def write_clip(tmp_path) -> Callable[..., Path]:
    """Writes a clip below tmp_path; a pixel is (R, G, B) = (x, y, frame), + 100 if sharp."""

    def write(
        name: str,
        numbers: Iterable[int],
        split: str = 'test',
        size: tuple[int, int] = (8, 6),
        stem: str = '{:06d}',
        suffixes: tuple[str, str] = ('.png', '.png'),
        folders: tuple[str, str] = ('blur', 'sharp'),
    ) -> Path:
        width, height = size
        for folder, suffix, offset in zip(folders, suffixes, (0, 100), strict=True):
            path = tmp_path / split / name / folder
            path.mkdir(parents=True)
            for t, number in enumerate(numbers):
                frame = np.empty((height, width, 3), np.uint8)
                frame[..., 0], frame[..., 1], frame[..., 2] = (
                    t + offset,
                    np.arange(height)[:, None],
                    np.arange(width),
                )
                cv2.imwrite(str(path / (stem.format(number) + suffix)), frame)  # takes BGR
        return tmp_path / split / name

    return write


@pytest.fixture
def real_copy(tmp_path, sample_root) -> Path:
    """A data set below tmp_path whose one clip, train/gopro_walk_a, may be spoilt."""
    shutil.copytree(sample_root / 'train' / 'gopro_walk_a', tmp_path / 'train' / 'gopro_walk_a')
    return tmp_path
