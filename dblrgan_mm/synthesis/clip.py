"""A clip on disk: its folder, its settings, and what is left of a run that was stopped."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dblrgan_mm import __version__, files
from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.pairs import Footage, pair_jobs
from dblrgan_mm.synthesis.workers import Workers

SETTINGS = 'synthesis.json'  # beside blur/ and sharp/


@dataclass
class Clip:
    """A clip to make.

    Attributes:
        folder: OUT_DIR/<split>/<clip>.
        settings: all that its files depend on; kept in the folder.
    """

    source: Path
    folder: Path
    settings: dict[str, Any]

    @property
    def partial(self) -> Path:
        """The folder in which it is made."""
        return self.folder.parents[1] / f'.{self.folder.parent.name}-{self.folder.name}.partial'

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.settings['width'], self.settings['height']

    def paths(self, n: int) -> list[Path]:
        """Where the blurry and the sharp frame of pair n are made."""
        name = f'{self.settings["first_number"] + n:06d}.png'
        return [self.partial / kind / name for kind in ('blur', 'sharp')]

    def is_finished(self) -> bool:
        """Whether it is there already; a UserError if something else is."""
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return False
        there = read_settings(self.folder)
        if there is None:
            raise UserError(
                f'{self.folder}: is there, but was not made by this tool; remove it or choose '
                'another --name'
            )
        for key in dict.fromkeys((*there, *self.settings)):
            if key in ('input_psnr', 'version'):
                continue
            if there.get(key) != self.settings.get(key):
                old, new = (
                    f'{key} {summary(each[key])}' if key in each else f'no {key}'
                    for each in (there, self.settings)
                )
                raise UserError(
                    f'{self.folder}: was made with {old}, this command asks for {new}; give the '
                    'same settings, remove the clip, or choose another --name'
                )
        return True


def summary(setting: Any) -> str:
    """A setting in short: for a list, its length and range."""
    if isinstance(setting, list):
        return f'{min(setting):g} to {max(setting):g} ({len(setting)} values)'
    return str(setting)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that a clip was made with; None where they are missing."""
    try:
        return json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def keep_whole_pairs(clip: Clip) -> list[float]:
    """Open a clip's partial folder; keep the whole pairs in it but for the last one.

    Returns:
        The kept pairs' PSNR in dB.
    """
    there = read_settings(clip.partial) or {}
    if not clip.settings.items() <= there.items():
        shutil.rmtree(clip.partial, ignore_errors=True)
        for kind in ('blur', 'sharp'):
            (clip.partial / kind).mkdir(parents=True)
        files.write_whole(clip.partial / SETTINGS, json.dumps(clip.settings).encode())
    psnrs = []
    for n in range(clip.settings['pairs']):
        try:
            pair = (read_frame(path, 'bgr') for path in clip.paths(n))
            psnrs.append(cv2.PSNR(*pair))
        except ValueError:
            break
    psnrs = psnrs[:-1]
    kept = {path for n in range(len(psnrs)) for path in clip.paths(n)}
    for path in {*clip.partial.glob('*/*')} - kept:
        path.unlink()
    return psnrs


def make_clip(clip: Clip, footage: Footage, pool: Workers, bar: Any) -> list[float]:
    """Make what a clip's partial folder lacks, and put it in its place.

    Returns:
        The pairs' PSNR in dB.
    """
    from tqdm import tqdm

    psnrs = keep_whole_pairs(clip)
    bar.update(len(psnrs))
    results = pool.in_order(pair_jobs(clip.settings, footage, len(psnrs)))
    for n, (*images, psnr) in enumerate(results, len(psnrs)):
        for path, image in zip(clip.paths(n), images, strict=True):
            files.write_whole(path, image)
        psnrs.append(psnr)
        bar.update()
    told = clip.settings | dict(input_psnr=round(float(np.mean(psnrs)), 2), version=__version__)
    files.write_whole(clip.partial / SETTINGS, json.dumps(told, indent=2).encode())
    clip.folder.mkdir(parents=True, exist_ok=True)
    clip.folder.rmdir()  # only an empty folder makes way
    clip.partial.rename(clip.folder)
    exposure = ', '.join(
        f'{key} {summary(told[key])}'
        for key in ('shutter', 'shutters', 'window', 'lights')
        if key in told
    )
    tqdm.write(
        f'{clip.folder}: {told["pairs"]} pairs {told["width"]}x{told["height"]}, stride '
        f'{told["stride"]}, {exposure}, input PSNR {told["input_psnr"]} dB'
    )
    return psnrs
