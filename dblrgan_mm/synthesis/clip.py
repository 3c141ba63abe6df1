"""A clip on disk: its folder, its settings, and how to resume an interrupted run."""

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

SETTINGS = 'synthesis.json'  # next to blur/ and sharp/


@dataclass
class SynthesizedClip:
    """A clip to make.

    Attributes:
        folder: OUT_DIR/<split>/<clip>.
        settings: everything that its files depend on; stored in the folder.
    """

    source: Path
    folder: Path
    settings: dict[str, Any]

    @property
    def partial(self) -> Path:
        """The folder in which the clip is made."""
        return self.folder.parents[1] / f'.{self.folder.parent.name}-{self.folder.name}.partial'

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.settings['width'], self.settings['height']

    def paths(self, n: int) -> list[Path]:
        """Return the paths of the blurry and the sharp frame of pair n in the partial folder."""
        name = f'{self.settings["first_number"] + n:06d}.png'
        return [self.partial / kind / name for kind in ('blur', 'sharp')]

    def is_finished(self) -> bool:
        """Return whether the clip exists; raise a UserError if something else is in its place."""
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return False
        there = read_settings(self.folder)
        if there is None:
            raise UserError(
                f'{self.folder}: exists, but was not made by this tool; remove it or choose '
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
                    f'{self.folder}: was made with {old}, but this command asks for {new}; use the '
                    'same settings, remove the clip, or choose another --name'
                )
        return True


def summary(setting: Any) -> str:
    """Summarise a setting as text: for a list, its range and length."""
    if isinstance(setting, list):
        return f'{min(setting):g} to {max(setting):g} ({len(setting)} values)'
    return str(setting)


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a clip was made with, or None if they cannot be read."""
    try:
        return json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def keep_whole_pairs(clip: SynthesizedClip) -> list[float]:
    """Prepare a clip's partial folder; keep all complete pairs in it except the last.

    Returns:
        The PSNR of the kept pairs, in dB.
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
            blurry, sharp = (read_frame(path, 'bgr') for path in clip.paths(n))
            psnrs.append(cv2.PSNR(blurry, sharp))
        except ValueError:
            break
    psnrs = psnrs[:-1]
    kept = {path for n in range(len(psnrs)) for path in clip.paths(n)}
    for path in {*clip.partial.glob('*/*')} - kept:
        path.unlink()
    return psnrs


def make_clip(clip: SynthesizedClip, footage: Footage, pool: Workers, bar: Any) -> list[float]:
    """Make the pairs missing from a clip's partial folder, and move the folder into place.

    Returns:
        The PSNR of all pairs, in dB.
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
    final = clip.settings | dict(input_psnr=round(float(np.mean(psnrs)), 2), version=__version__)
    files.write_whole(clip.partial / SETTINGS, json.dumps(final, indent=2).encode())
    clip.folder.mkdir(parents=True, exist_ok=True)
    clip.folder.rmdir()  # fails unless the folder is empty
    clip.partial.rename(clip.folder)
    exposure = ', '.join(
        f'{key} {summary(final[key])}'
        for key in ('shutter', 'shutters', 'window', 'lights')
        if key in final
    )
    tqdm.write(
        f'{clip.folder}: {final["pairs"]} pairs {final["width"]}x{final["height"]}, stride '
        f'{final["stride"]}, {exposure}, input PSNR {final["input_psnr"]} dB'
    )
    return psnrs
