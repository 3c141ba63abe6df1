"""Where each benchmark keeps its frames.

A layout is a function ``(root, split) -> list[Clip]`` that knows the folders of one data set as it
is downloaded. It lists, it reads no image.
"""

import itertools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dblrgan_mm.errors import DatasetError

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one scene, blurry and sharp in the same order.

    Attributes:
        name: the clip's name within its split.
        blurry: paths of the blurry frames.
        sharp: paths of the sharp frames.
    """

    name: str
    blurry: tuple[str, ...]
    sharp: tuple[str, ...]


def gopro(root: Path, split: str, blur: str = 'blur') -> list[Clip]:
    """GOPRO_Large (Nah et al., CVPR 2017): ``<split>/<clip>/{blur,blur_gamma,sharp}/NNNNNN.png``.

    22 training and 11 test clips; the numbers start anywhere and differ from clip to clip. The
    field uses ``blur``, not ``blur_gamma``.
    """
    folder = root / split
    clips = []
    for clip in _subfolders(folder, 'See docs/gopro.md for how to get GoPro and where to put it.'):
        clips.append(_paired(clip.name, clip / blur, clip / 'sharp'))
    return clips


LAYOUTS: dict[str, Callable[..., list[Clip]]] = {'gopro': gopro}


def _subfolders(folder: Path, advice: str) -> list[Path]:
    """Subfolders by name; an error with advice where there is none."""
    if not folder.is_dir():
        raise DatasetError(f'no folder {folder.resolve()}. {advice}')
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if not found:
        raise DatasetError(f'no clip in {folder.resolve()}: the folder has no subfolder. {advice}')
    return found


def _paired(name: str, blurry: Path, sharp: Path) -> Clip:
    """A clip from two folders that must hold frames of the same names, numbered without gaps."""
    frames_of_blurry, frames_of_sharp = _frames(name, blurry), _frames(name, sharp)
    for stem in (*frames_of_blurry, *frames_of_sharp):
        if stem in frames_of_blurry and stem in frames_of_sharp:
            continue
        missing = sharp if stem in frames_of_blurry else blurry
        raise DatasetError(
            f'clip {name}: {len(frames_of_blurry)} blurry frames but {len(frames_of_sharp)} sharp '
            f'ones (no frame {stem} in {missing}). Copy the missing frame, or remove its partner.'
        )
    _refuse_gaps(name, blurry, list(frames_of_blurry))
    return Clip(name, tuple(frames_of_blurry.values()), tuple(frames_of_sharp.values()))


def _frames(name: str, folder: Path) -> dict[str, str]:
    """Paths of a folder's frames by their stem, in the order of their numbers."""
    if not folder.is_dir():
        raise DatasetError(
            f'clip {name}: no folder {folder.resolve()}. A clip has a folder for its blurry and '
            'one for its sharp frames.'
        )
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if entry.is_file()]
    numbered: dict[int, str] = {}
    for file in files:
        number = _number(file)
        if number is None:
            continue
        if number in numbered:
            raise DatasetError(
                f'clip {name}: {numbered[number]} and {file} in {folder} have the same number; '
                'keep one of the two'
            )
        numbered[number] = file
    if not numbered:
        raise DatasetError(f'clip {name}: no numbered image in {folder.resolve()}')
    return {Path(numbered[n]).stem: os.path.join(folder, numbered[n]) for n in sorted(numbered)}


def _refuse_gaps(name: str, folder: Path, stems: Sequence[str]) -> None:
    numbers = [_number(f'{stem}.png') for stem in stems]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    smallest = min(steps, default=1)
    for step, before, after in zip(steps, stems, stems[1:], strict=False):
        if step != smallest:
            raise DatasetError(
                f'clip {name}: a gap in the numbering of {folder}: {before} is followed by '
                f'{after}. Copy the missing frames, or split the clip into two folders.'
            )


def _number(file: str) -> int | None:
    """The last number in an image's stem; None for what is not a numbered image."""
    stem, suffix = os.path.splitext(file)
    digits = re.findall(r'\d+', stem)
    if suffix.lower() not in IMAGE_SUFFIXES or not digits or file.startswith('.'):
        return None
    return int(digits[-1])
