"""Shared fixtures: the repository's own clips."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from dblrgan_mm import compat

compat.apply()  # before a test module imports MMagic

# opt out of a telemetry and update check of albumentations: tests use no network
os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (MMagic's transforms draw from it)


@pytest.fixture(scope='session', autouse=True)
def _mmagic_scope():
    """As under a runner: names in configs are looked up among MMagic's types."""
    init_default_scope('mmagic')


@pytest.fixture(scope='session')
def repo() -> Path:
    return ROOT


@pytest.fixture(scope='session')
def sample_root() -> Path:
    return ROOT / 'tests' / 'data' / 'gopro'


def _read(folder: Path) -> np.ndarray:
    return np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())])


@pytest.fixture(scope='session')
def real_clip(sample_root) -> dict[str, torch.Tensor]:
    """Blurry and sharp frames of one training clip, each (t, 3, h, w), RGB in [0, 1]."""
    clip = sample_root / 'train' / 'gopro_walk_a'
    return {
        kind: torch.from_numpy(_read(clip / folder)).permute(0, 3, 1, 2).float() / 255
        for kind, folder in (('blurry', 'blur'), ('sharp', 'sharp'))
    }


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
