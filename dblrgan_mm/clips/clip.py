"""A clip: blurry and sharp frames in one order, and what can be wrong with their files."""

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
        blurry: where each blurry frame is: an image file, or a place in a clip store.
        sharp: the same for the sharp frames; None for a clip without.
    """

    name: str
    frames: tuple[str, ...]
    blurry: tuple[str, ...]
    sharp: tuple[str, ...] | None


@dataclass(frozen=True)
class Fault:
    """What is wrong with a clip, and where known with which frame of it."""

    clip: str
    frame: str | None
    message: str


@dataclass(frozen=True)
class ClipFiles:
    """The files of a clip as they are found, before they are checked.

    Attributes:
        name: the clip's name within its split.
        blurry: image files, in any order.
        sharp: the same; None where sharp frames are not asked for.
        places: the folder or pattern of the blurry and of the sharp files, for messages.
    """

    name: str
    blurry: list[str]
    sharp: list[str] | None
    places: tuple[str, str]

    def clip(self) -> Clip:
        """The clip, its frames in the order of their numbers.

        Raises:
            DatasetError: for the first fault.
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
        """What is missing, double, or numbered so that the order or the partner is in doubt."""
        sides = [(self.blurry, self.places[0]), (self.sharp, self.places[1])]
        sides = [(paths, place) for paths, place in sides if paths is not None]
        alone = False
        for paths, place in sides:
            for frame, message in _faults_of_side(paths, place):
                alone = True
                yield Fault(self.name, frame, message)
        if alone:
            return
        if self.sharp is not None:
            yield from self._unmatched()
        yield from self._gaps()

    def _unmatched(self) -> Iterator[Fault]:
        blurry, sharp = _by_number(self.blurry), _by_number(self.sharp)
        counts = f'{len(blurry)} blurry frames but {len(sharp)} sharp ones'
        if len(blurry) == len(sharp) and blurry.keys() != sharp.keys():
            ends = [
                f'{Path(side[min(side)][0]).stem} to {Path(side[max(side)][0]).stem}'
                for side in (blurry, sharp)
            ]
            counts = f'blurry frames are numbered {ends[0]}, sharp ones {ends[1]}'
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
                    f'a gap in the numbering of {self.places[0]}: {stems[0]} is followed by '
                    f'{stems[1]}. Copy the missing frames, or split the clip into two folders.',
                )


def _faults_of_side(paths: list[str], place: str) -> Iterator[tuple[str | None, str]]:
    """Faults of the blurry, or of the sharp files of a clip by themselves."""
    if not paths:
        if os.path.isdir(place) or '{' in place:
            yield None, f'no numbered image in {place}'
        else:
            yield (
                None,
                f'no folder {place}. A clip has a folder for its blurry and one for its sharp '
                'frames; where there are no sharp ones, load with gt=None.',
            )
        return
    for same in _by_number(paths).values():
        if len(same) > 1:
            names = [os.path.basename(path) for path in sorted(same)[:2]]
            yield (
                Path(names[0]).stem,
                f'{names[0]} and {names[1]} in {place} have the same number; keep one of the two',
            )
    unlike = _odd_one_out(paths)
    if unlike:
        yield (
            Path(unlike[1]).stem,
            f'mixed numbering in {place}: {unlike[0]} and {unlike[1]} are not named alike, so '
            'their order is in doubt. Rename the frames, or split the clip into two folders.',
        )


def _by_number(paths: Iterable[str]) -> dict[int, list[str]]:
    found = defaultdict(list)
    for path in paths:
        found[number_of(os.path.basename(path))].append(path)
    return found


def _odd_one_out(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two files that are not named alike: other text around the number, or other padding."""
    parts = {}
    for path in sorted(paths, key=lambda path: (len(path), path)):
        before, digits, after = re.fullmatch(r'(.*?)(\d+)(\D*)', Path(path).stem).groups()
        parts[path] = (before, digits, after)
    first = next(iter(parts))
    width = len(parts[first][1])  # the shortest
    for path, (before, digits, after) in parts.items():
        alike = (before, after) == (parts[first][0], parts[first][2])
        if not alike or digits != f'{int(digits):0{width}d}':
            return os.path.basename(first), os.path.basename(path)
    return None


def number_of(file: str) -> int | None:
    """The last number in an image's stem; None for what is not a numbered image."""
    stem, suffix = os.path.splitext(file)
    digits = re.findall(r'\d+', stem)
    if suffix.lower() not in IMAGE_SUFFIXES or not digits or file.startswith('.'):
        return None
    return int(digits[-1])
