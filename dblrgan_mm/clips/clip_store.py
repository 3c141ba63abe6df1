"""The clip store: raw frames, memory-mapped, so that a crop costs kilobytes of reading.

A store is a folder with ``index.json`` and, for each clip, one file ``<split>/<clip>.npy``: an
array (1 or 2, t, h, w, 3), uint8, RGB, in NumPy's own format; blurry frames first, then sharp
ones. Processes that read the same clip share the system's page cache. Format and idea: ours.
"""

import functools
import hashlib
import io
import json
import math
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.clips.layouts import with_defaults
from dblrgan_mm.errors import DatasetError

INDEX = 'index.json'
FORMAT = 'dblrgan_mm clip store, version 1'
SIDES = ('blurry', 'sharp')
_HEADER = 128  # bytes, of NumPy's format for any array of five axes


def is_store(root: Path) -> bool:
    """Whether a folder is a clip store."""
    return (root / INDEX).is_file()


def load_clips(
    layout: str, root: Path, split: str, paired: bool = True, **layout_args: str
) -> list[Clip]:
    """The clips of a split in a store; as :func:`dblrgan_mm.clips.layouts.load_clips`.

    Raises:
        DatasetError: if the store was made from another layout, its conversion did not end, or a
            clip's file is missing or of the wrong size.
    """
    entries = read_split(layout, root, split, layout_args)
    return [load_clip(root, name, entry, paired) for name, entry in entries.items()]


def read_split(layout: str, root: Path, split: str, layout_args: dict[str, str]) -> dict[str, dict]:
    """The index's entries of a split's clips, by name.

    Raises:
        DatasetError: as of :func:`load_clips`, but the files are not looked at.
    """
    index = read_index(root)
    require_source(root, index, layout, layout_args)
    part = index['splits'].get(split)
    if part is None:
        raise DatasetError(
            f'the clip store {root.resolve()} has no split {split!r}, only '
            f'{", ".join(sorted(index["splits"]))}. Convert it: see docs/clip_store.md.'
        )
    if not part['complete']:
        raise DatasetError(
            f'the clip store {root.resolve()} holds only part of split {split!r}: its conversion '
            'did not end. Run the same conversion again; it goes on.'
        )
    return part['clips']


def load_clip(root: Path, name: str, entry: dict, paired: bool) -> Clip:
    """A clip by its entry in the index.

    Raises:
        DatasetError: if its file is missing, of the wrong size or outside of the store, or it
            lacks the sharp frames.
    """
    file = root / entry['file']
    if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(root)):
        raise DatasetError(
            f'clip {name}: the index of the clip store {root.resolve()} names a file outside of '
            f'it, {entry["file"]}: refused. Convert the data set anew.'
        )
    try:
        map_frame(f'{file}#blurry.0', tuple(entry['shape']))
    except ValueError as error:
        raise DatasetError(f'clip {name}: {error}') from error
    sides = []
    for side in SIDES[: entry['shape'][0]]:
        sides.append(tuple(f'{file}#{side}.{t}' for t in range(len(entry['frames']))))
    if paired and len(sides) == 1:
        raise DatasetError(f'clip {name} of the clip store {root.resolve()} has no sharp frames')
    return Clip(name, tuple(entry['frames']), sides[0], sides[1] if paired else None)


def is_place(path: str) -> bool:
    """Whether a frame's path names a place in a clip store: ``<file>.npy#<side>.<position>``."""
    return '.npy#' in path


def map_frame(place: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Map a frame of a clip store into memory; nothing is read until its pixels are.

    Args:
        place: where it is, ``<file>.npy#<side>.<position>``.
        shape: what the index says of the clip, to be held against the file.

    Returns:
        uint8 (h, w, 3), RGB. It may be written to, which changes this array alone.

    Raises:
        ValueError: if the file is missing, truncated, or not of a clip store.
    """
    path, side, position = re.fullmatch(r'(.*)#(\w+)\.(\d+)', place).groups()
    try:
        with open(path, 'rb', buffering=0) as file:
            found = _shape(file.read(_HEADER))
            start, size = _HEADER, os.fstat(file.fileno()).st_size
            frame_bytes = math.prod(found[2:])
            if shape in (None, found) and size == start + math.prod(found):
                index = SIDES.index(side) * found[1] + int(position)
                return _map(file, start + index * frame_bytes, found[2:])
    except FileNotFoundError:
        raise ValueError(
            f'{path} is missing from the clip store. Copy it, or run the conversion again.'
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(
            f'{path} is no file of a clip store ({error}). Delete it and run the conversion again.'
        ) from error
    if shape not in (None, found):
        raise ValueError(
            f'{path} holds an array {found}, the index says {shape}: the file belongs to another '
            'store. Delete it and run the conversion again.'
        )
    raise ValueError(
        f'{path} has {size} bytes, its header says {start + math.prod(found)}: it was cut off, or '
        'something was added. Copy it again, or delete it and run the conversion again.'
    )


def _map(file: io.FileIO, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Map a part of a file as an array; ``np.memmap`` takes four times as long."""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    size = math.prod(shape)
    # private to this array: the transforms that follow may work in place
    pages = mmap.mmap(
        file.fileno(), offset + size - start, access=mmap.ACCESS_COPY, offset=start
    )
    return np.ndarray(shape, np.uint8, pages, offset - start)


@functools.lru_cache
def _shape(header: bytes) -> tuple[int, ...]:
    """The shape of the array that a header of NumPy's format announces."""
    file = io.BytesIO(header)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype != np.uint8 or len(shape) != 5 or file.tell() != _HEADER:
        raise ValueError(f'it holds an array {shape} of {dtype}')
    return shape


def write_clip(clip: Clip, file: Path, progress: Callable[[], None] = lambda: None) -> dict:
    """Write a clip's frames into a file, whole or not at all, and read it back.

    Args:
        clip: its frames are image files.
        file: where to; replaced if it is there.
        progress: called once a frame.

    Returns:
        The clip's entry in the index, without 'file'.

    Raises:
        DatasetError: for a frame that cannot be read, or is of another size than the first; names
            clip and frame.
        OSError: if the disk is full, or returns other bytes than were written.
    """
    sides = [clip.blurry] + ([clip.sharp] if clip.sharp else [])
    part = file.with_suffix('.partial')
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, 'w+b') as out:
            digest = _HashedFile(out)
            shape = None
            for side in sides:
                for name, path in zip(clip.frames, side, strict=True):
                    frame = _read(clip, name, path)
                    if shape is None:
                        shape = (len(sides), len(clip.frames), *frame.shape)
                        np.lib.format.write_array_header_1_0(
                            digest, dict(descr='|u1', fortran_order=False, shape=shape)
                        )
                    elif frame.shape != shape[2:]:
                        raise DatasetError(
                            f'clip {clip.name}, frame {name}: {path} has {frame.shape[1]}x'
                            f'{frame.shape[0]} pixels, the first frame {shape[3]}x{shape[2]}. '
                            'Frames of a clip must be of equal size.'
                        )
                    digest.write(frame.data)
                    progress()
            out.flush()
            os.fsync(out.fileno())
        written = digest.sha256.hexdigest()
        if sha256(part) != written:
            raise OSError(f'{part} does not hold what was written to it; is the disk sound?')
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return dict(frames=list(clip.frames), shape=list(shape), sha256=written)


def _read(clip: Clip, name: str, path: str) -> np.ndarray:
    try:
        return read_frame(path)
    except ValueError as error:
        raise DatasetError(f'clip {clip.name}, frame {name}: {error}') from error


class _HashedFile:
    """A file that computes the checksum of what is written to it."""

    def __init__(self, file) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data) -> None:
        self.sha256.update(data)
        self.file.write(data)


def sha256(file: Path) -> str:
    """The checksum of a file's bytes as they are on the disk, past the page cache."""
    with open(file, 'rb') as opened:
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def stored_bytes(clip: Clip) -> int:
    """The size of a clip's file, if all its frames are as large as the first."""
    sides = 2 if clip.sharp else 1
    return _HEADER + sides * len(clip.frames) * _read(clip, clip.frames[0], clip.blurry[0]).size


def new_index(layout: str, layout_args: dict[str, str]) -> dict:
    """The index of a store without clips."""
    return dict(format=FORMAT, layout=layout, layout_args=layout_args, splits={})


def require_source(root: Path, index: dict, layout: str, layout_args: dict[str, str]) -> None:
    """Raise a DatasetError unless the store was made from this layout with these arguments."""
    there, asked = index['layout_args'], layout_args
    if index['layout'] == layout:
        there, asked = (with_defaults(layout, given) for given in (there, asked))
    if (index['layout'], there) != (layout, asked):
        raise DatasetError(
            f'the clip store {root.resolve()} was made from the {index["layout"]} layout with '
            f'{index["layout_args"] or "no layout_args"}; asked for is {layout} with '
            f'{layout_args or "no layout_args"}. Change what you ask for, or convert anew into '
            'another folder.'
        )


def read_index(root: Path) -> dict:
    """The index of a store, checked to be one."""
    path = root / INDEX
    try:
        index = json.loads(path.read_text(encoding='utf-8'))
        if index['format'] != FORMAT:
            raise ValueError(f'its format is {index["format"]!r}')
        if not {'layout', 'layout_args', 'splits'} <= index.keys():
            raise ValueError('it lacks a part')
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DatasetError(
            f'{path.resolve()} is no index of a clip store ({error!r}). Convert the data set anew.'
        ) from error
    return index


def write_index(root: Path, index: dict) -> None:
    """Replace the index of a store, in one go."""
    part = root / f'{INDEX}.partial'
    try:
        with open(part, 'w', encoding='utf-8') as file:
            json.dump(index, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, root / INDEX)
    finally:
        part.unlink(missing_ok=True)
