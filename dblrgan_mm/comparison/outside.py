"""Frames that a program outside of MMagic restored, as a method of a comparison."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.frames import frame_paths
from dblrgan_mm.comparison.report import COSTS
from dblrgan_mm.errors import UserError

logger = logging.getLogger('dblrgan_mm')

COST_FILE = 'cost.json'


@dataclass(frozen=True)
class Folder:
    """A method whose restored frames are in a folder.

    The frames of a clip are in ``<folder>/<data set>/<clip>`` or ``<folder>/<clip>``, or in the
    folder itself if there is only one clip. Their file names, without suffix, are those of the
    blurry frames. If no name matches, the frames are taken in numerical order.

    The file ``cost.json`` in the folder may state the cost: ``{"parameters": 22000000, "data":
    {"gopro": {"macs": 2.4e11, "fps": 0.5, "memory": 1e9}}}``, each entry optional; ``macs`` are
    multiply-accumulates per frame, ``memory`` is in bytes.

    Attributes:
        name: its name in the tables.
        folder: the folder.
    """

    name: str
    folder: str

    def places(self, data: str, clip: Clip, only: bool) -> list[str]:
        """Return the paths of a clip's restored frames, in order.

        Args:
            data: name of the data set.
            clip: the clip.
            only: whether it is the only clip of all data sets.

        Raises:
            UserError: the folder or a frame is missing, there are too many frames, or the size of
                a frame differs from that of the clip.
        """
        root = Path(self.folder)
        tried = [root / data / clip.name, root / clip.name, *[root] * only]
        folder = next((place for place in tried if place.is_dir() and frame_paths(place)), None)
        if folder is None:
            places = ', '.join(map(str, tried))
            raise UserError(f'no frames of clip {clip.name} in any of: {places}; put them there')
        paths = self._in_order(folder, clip)
        height, width = clip_store.read_any(clip.blurry[0]).shape[:2]
        for path in paths:
            try:
                with Image.open(path) as image:
                    size = image.size
            except (UnidentifiedImageError, OSError) as error:
                raise UserError(f'{path}: cannot be read ({error})') from error
            if size != (width, height):
                raise UserError(
                    f'{path}: {size[0]}x{size[1]}, but clip {clip.name} is {width}x{height}'
                )
        return [str(path) for path in paths]

    def _in_order(self, folder: Path, clip: Clip) -> list[Path]:
        """Return the images of a folder in the order of the clip's frames."""
        images = frame_paths(folder)
        named = {path.stem: path for path in images}
        count = f'{len(images)} frames, but clip {clip.name} has {len(clip.frames)}'
        if not named.keys() & set(clip.frames):
            if len(images) != len(clip.frames):
                raise UserError(f'{folder}: {count}, and no file name is that of a frame')
            logger.warning(
                '%s: no file name is that of a frame of clip %s; matched by order, %s to %s',
                folder, clip.name, images[0].name, clip.frames[0],
            )  # fmt: skip
            return images
        missing = [frame for frame in clip.frames if frame not in named]
        if missing:
            raise UserError(f'{folder}: {count}: frame {missing[0]} is missing')
        if len(images) > len(clip.frames):
            wanted = [named[frame] for frame in clip.frames]
            surplus = next(path.name for path in images if path not in wanted)
            raise UserError(f'{folder}: {count}; {surplus} is not one of them')
        return [named[frame] for frame in clip.frames]

    def cost(self, data: Iterable[str]) -> dict[str, Any]:
        """Return the cost that ``cost.json`` states, in the form of ``restoring.restore``.

        Args:
            data: names of the data sets.

        Raises:
            UserError: the file is not valid JSON, or has an unknown entry.
        """
        path = Path(self.folder) / COST_FILE
        stated: dict[str, Any] = {}
        if path.is_file():
            try:
                stated = json.loads(path.read_text(encoding='utf-8'))
            except ValueError as error:
                raise UserError(f'{path}: is not valid JSON ({error})') from error
        costs = stated.get('data', {}) if isinstance(stated, dict) else None
        if not isinstance(costs, dict) or not all(isinstance(c, dict) for c in costs.values()):
            raise UserError(f'{path}: must be an object with "parameters" and "data"')
        numbers = dict(parameters=stated.get('parameters', 0))
        for name, cost in costs.items():
            numbers |= {f'{name}/{key}': value for key, value in cost.items()}
        unknown = [key for key in stated if key not in ('parameters', 'data')]
        unknown += [key for key in numbers if key.rpartition('/')[2] not in COSTS]
        wrong = [key for key, value in numbers.items() if not isinstance(value, (int, float))]
        if unknown or wrong:
            known = ', '.join(COSTS)
            raise UserError(f'{path}: {(unknown + wrong)[0]}: need numbers, named {known}')
        return dict(
            parameters=stated.get('parameters'), data={name: costs.get(name, {}) for name in data}
        )
