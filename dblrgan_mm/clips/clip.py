"""A clip: its blurry and sharp frames in order, and checks of the files."""

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dblrgan_mm.clips.frames import IMAGE_SUFFIXES
from dblrgan_mm.errors import DatasetError


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one scene.

    Attributes:
        name: the clip's name within its split.
        frames: names of the frames, in order.
        blurry: location of each blurry frame: an image file or a place in a clip store.
        sharp: the same for the sharp frames; None if the clip has none.
    """

    name: str
    frames: tuple[str, ...]
    blurry: tuple[str, ...]
    sharp: tuple[str, ...] | None


@dataclass(frozen=True)
class Fault:
    """A fault of a clip and, if known, the frame it concerns."""

    clip: str
    frame: str | None
    message: str


@dataclass(frozen=True)
class ClipFiles:
    """The files found for a clip, not checked yet.

    Attributes:
        name: the clip's name within its split.
        blurry: image files, in any order.
        sharp: the same; None if sharp frames are not requested.
        places: folder or pattern of the blurry files and of the sharp files, for messages.
    """

    name: str
    blurry: list[str]
    sharp: list[str] | None
    places: tuple[str, str]

    def clip(self) -> Clip:
        """Return the clip with its frames in numerical order.

        Raises:
            DatasetError: for the first fault found.
        """
        for fault in self.faults():
            raise DatasetError(f'clip {fault.clip}: {fault.message}')
        blurry = _by_number(self.blurry)
        sharp = None if self.sharp is None else _by_number(self.sharp)
        numbers = sorted(blurry)
        return Clip(
            self.name,
            tuple(Path(blurry[n][0]).stem for n in numbers),
            tuple(blurry[n][0] for n in numbers),
            None if sharp is None else tuple(sharp[n][0] for n in numbers),
        )

    def faults(self) -> Iterator[Fault]:
        """Yield missing or duplicate frames, and numbering that leaves order or pairs unclear."""
        sides = [(self.blurry, self.places[0])]
        if self.sharp is not None:
            sides.append((self.sharp, self.places[1]))
        faulty = False
        for paths, place in sides:
            for frame, message in _faults_of_side(paths, place):
                faulty = True
                yield Fault(self.name, frame, message)
        if faulty:
            return
        if self.sharp is not None:
            yield from self._unmatched(self.sharp)
        yield from self._gaps()

    def _unmatched(self, sharp_files: list[str]) -> Iterator[Fault]:
        blurry, sharp = _by_number(self.blurry), _by_number(sharp_files)
        counts = f'{len(blurry)} blurry frames but {len(sharp)} sharp ones'
        if len(blurry) == len(sharp) and blurry.keys() != sharp.keys():
            ends = [
                f'{Path(side[min(side)][0]).stem} to {Path(side[max(side)][0]).stem}'
                for side in (blurry, sharp)
            ]
            counts = f'blurry frames are numbered {ends[0]}, sharp frames {ends[1]}'
        for number in sorted(blurry.keys() ^ sharp.keys()):
            place = self.places[1] if number in blurry else self.places[0]
            stem = Path((blurry if number in blurry else sharp)[number][0]).stem
            yield Fault(
                self.name,
                stem,
                f'{counts} (no frame {stem} in {place}). Copy the missing frame, or remove its '
                'partner.',
            )

    def _gaps(self) -> Iterator[Fault]:
        blurry = _by_number(self.blurry)
        numbers = sorted(blurry)
        smallest = min((b - a for a, b in itertools.pairwise(numbers)), default=1)
        for before, after in itertools.pairwise(numbers):
            if after - before != smallest:
                stems = [Path(blurry[n][0]).stem for n in (before, after)]
                yield Fault(
                    self.name,
                    stems[0],
                    f'a gap in the numbering in {self.places[0]}: {stems[0]} is followed by '
                    f'{stems[1]}. Copy the missing frames, or split the clip into two folders.',
                )


def _faults_of_side(paths: list[str], place: str) -> Iterator[tuple[str | None, str]]:
    """Yield the faults of the blurry files alone, or of the sharp files alone."""
    if not paths:
        if os.path.isdir(place) or '{' in place:
            yield None, f'no numbered image in {place}'
        else:
            yield (
                None,
                f'no folder {place}. A clip needs one folder for its blurry frames and one for its '
                'sharp frames. If there are none, set gt=None in the config, or use --unpaired.',
            )
        return
    for same in _by_number(paths).values():
        if len(same) > 1:
            names = [os.path.basename(path) for path in sorted(same)[:2]]
            yield (
                Path(names[0]).stem,
                f'{names[0]} and {names[1]} in {place} have the same number; keep one of the two',
            )
    unlike = _find_unlike_names(paths)
    if unlike:
        yield (
            Path(unlike[1]).stem,
            f'mixed numbering in {place}: {unlike[0]} and {unlike[1]} follow different naming '
            'patterns, so their order is unclear. Rename the frames, or split the clip into two '
            'folders.',
        )


def _by_number(paths: Iterable[str]) -> dict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in paths:
        number = number_of(os.path.basename(path))
        if number is not None:
            found[number].append(path)
    return found


def _find_unlike_names(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two files with different text around the number, or different zero padding."""
    parts = {}
    for path in sorted(paths, key=lambda path: (len(path), path)):
        found = re.fullmatch(r'(?s)(.*?)(\d+)(\D*)', Path(path).stem)
        if found is not None:  # always, as all names have a number
            before, digits, after = found.groups()
            parts[path] = (before, digits, after)
    first = next(iter(parts))
    width = len(parts[first][1])  # the shortest name comes first
    for path, (before, digits, after) in parts.items():
        alike = (before, after) == (parts[first][0], parts[first][2])
        if not alike or digits != f'{int(digits):0{width}d}':
            return os.path.basename(first), os.path.basename(path)
    return None


def number_of(file: str) -> int | None:
    """Return the last number in an image's stem, or None if it is not a numbered image."""
    stem, suffix = os.path.splitext(file)
    digits = re.findall(r'\d+', stem)
    if suffix.lower() not in IMAGE_SUFFIXES or not digits or file.startswith('.'):
        return None
    return int(digits[-1])


def pad_index(index: int, length: int, padding: str | None) -> int:
    """Return the frame at ``index`` of a clip of ``length`` frames, extended by ``padding``.

    Example:
        >>> [pad_index(i, 4, 'reflection') for i in range(-2, 6)]
        [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if padding == 'reflection' and length > 1:
        period = 2 * (length - 1)
        index = abs(index) % period
        return min(index, period - index)
    return min(max(index, 0), length - 1)
