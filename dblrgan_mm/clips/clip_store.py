"""The clip store: raw, memory-mapped frames, so that loading a crop reads only kilobytes.

A store is a folder with ``index.json`` and one file ``<split>/<clip>.npy`` per clip: an array
(1 or 2, t, h, w, 3), uint8, RGB, in NumPy's own format. The blurry frames come first, then the
sharp frames. Processes that read the same clip share the system's page cache. The format and the
idea are our own.
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

from dblrgan_mm.clips import layouts
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.clips.layouts import with_defaults
from dblrgan_mm.errors import DatasetError
from dblrgan_mm.files import put_in_place, sha256, write_whole
from dblrgan_mm.resources import locate

INDEX = 'index.json'
FORMAT = 'dblrgan_mm clip store, version 1'
SIDES = ('blurry', 'sharp')
_HEADER = 128  # bytes; size of NumPy's header for any five-dimensional array


def is_store(root: Path) -> bool:
    """Return whether a folder is a clip store."""
    return (root / INDEX).is_file()


def load_clips(
    layout: str, root: Path, split: str, paired: bool = True, **layout_args: str
) -> list[Clip]:
    """Return the clips of a split, like :func:`dblrgan_mm.clips.layouts.load_clips`.

    Raises:
        DatasetError: if the store was made from another layout, its conversion is incomplete, or
            a clip's file is missing or has the wrong size.
    """
    entries = read_split(layout, root, split, layout_args)
    return [load_clip(root, name, entry, paired) for name, entry in entries.items()]


def load_any(
    layout: str, root: Path, split: str, paired: bool = True, **layout_args: str
) -> list[Clip]:
    """Load the clips of a split of a data set, or of a clip store of it.

    Raises:
        DatasetError: as in :func:`load_clips` and :func:`dblrgan_mm.clips.layouts.load_clips`.
    """
    load = load_clips if is_store(root) else layouts.load_clips
    return load(layout, root, split, paired, **layout_args)


def read_split(layout: str, root: Path, split: str, layout_args: dict[str, str]) -> dict[str, dict]:
    """Return the index entries of a split's clips, by name.

    Raises:
        DatasetError: as in :func:`load_clips`, but without checking the files.
    """
    index = read_index(root)
    require_source(root, index, layout, layout_args)
    part = index['splits'].get(split)
    if part is None:
        raise DatasetError(
            f'the clip store {root.resolve()} has no split {split!r}, only '
            f'{", ".join(map(repr, sorted(index["splits"])))}. To convert it, see '
            f'{locate("docs/clip_store.md")}.'
        )
    if not part['complete']:
        raise DatasetError(
            f'the clip store {root.resolve()} holds only part of split {split!r}: its conversion '
            'is incomplete. Run the same conversion again to resume it.'
        )
    return part['clips']


def load_clip(root: Path, name: str, entry: dict, paired: bool) -> Clip:
    """Return the clip that an index entry describes.

    Raises:
        DatasetError: if its file is missing, has the wrong size or lies outside the store, or if
            ``paired`` is set and the clip has no sharp frames.
    """
    file = root / entry['file']
    if not Path(os.path.normpath(file)).is_relative_to(os.path.normpath(root)):
        raise DatasetError(
            f'clip {name}: the index of the clip store {root.resolve()} names a file outside the '
            f'store, {entry["file"]}, which is not opened. Convert the data set again.'
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
    """Return whether a path is a place in a clip store, ``<file>.npy#<side>.<position>``."""
    return '.npy#' in path


def map_frame(place: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Map a frame of a clip store into memory. Pixels are read only when they are accessed.

    Args:
        place: location of the frame, ``<file>.npy#<side>.<position>``.
        shape: the clip's shape according to the index, which the file must match.

    Returns:
        uint8 (h, w, 3), RGB. Writing to it changes only this array.

    Raises:
        ValueError: if the file is missing, truncated, or not a clip store file.
    """
    parts = re.fullmatch(r'(?s)(.*)#(\w+)\.(\d+)', place)
    if parts is None:
        raise ValueError(f'{place} is not a place in a clip store')
    path, side, position = parts.groups()
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
            f'{path} is not a clip store file ({error}). Delete it and run the conversion again.'
        ) from error
    if shape not in (None, found):
        raise ValueError(
            f'{path} holds an array of shape {found}, but the index says {shape}: the file belongs '
            'to another store. Delete it and run the conversion again.'
        )
    raise ValueError(
        f'{path} has {size} bytes, but its header says {start + math.prod(found)}: the file was '
        'truncated or extended. Copy it again, or delete it and run the conversion again.'
    )


def _map(file: io.FileIO, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    """Map part of a file as an array. ``np.memmap`` takes four times as long."""
    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    size = math.prod(shape)
    # copy-on-write: transforms may change the array in place
    pages = mmap.mmap(file.fileno(), offset + size - start, access=mmap.ACCESS_COPY, offset=start)
    return np.ndarray(shape, np.uint8, pages, offset - start)


def read_any(place: str) -> np.ndarray:
    """Read a frame of an image file or a clip store: uint8 (h, w, 3), RGB."""
    return map_frame(place) if is_place(place) else read_frame(place)


@functools.lru_cache
def _shape(header: bytes) -> tuple[int, ...]:
    """Return the array shape stated in a header of NumPy's format."""
    file = io.BytesIO(header)
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if fortran or dtype != np.uint8 or len(shape) != 5 or file.tell() != _HEADER:
        raise ValueError(f'it holds an array of shape {shape} and type {dtype}')
    return shape


def write_clip(clip: Clip, file: Path, progress: Callable[[], None] = lambda: None) -> dict:
    """Write a clip's frames to a file atomically, and read the file back to verify it.

    Args:
        clip: a clip whose frames are image files.
        file: destination; replaced if it exists.
        progress: called once per frame.

    Returns:
        The clip's index entry, without 'file'.

    Raises:
        DatasetError: if a frame cannot be read or differs in size from the first one; the message
            names the clip and the frame.
        OSError: if the disk is full or returns other bytes than were written.
    """
    sides = [clip.blurry] + ([clip.sharp] if clip.sharp else [])
    part = file.with_suffix('.partial')
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(part, 'w+b') as out:
            digest = _HashedFile(out)
            shape: tuple[int, ...] = ()
            for side in sides:
                for name, path in zip(clip.frames, side, strict=True):
                    frame = _read(clip, name, path)
                    if not shape:
                        shape = (len(sides), len(clip.frames), *frame.shape)
                        np.lib.format.write_array_header_1_0(
                            digest, dict(descr='|u1', fortran_order=False, shape=shape)
                        )
                    elif frame.shape != shape[2:]:
                        raise DatasetError(
                            f'clip {clip.name}, frame {name}: {path} has {frame.shape[1]}x'
                            f'{frame.shape[0]} pixels, but the first frame has {shape[3]}x'
                            f'{shape[2]}. All frames of a clip must have the same size.'
                        )
                    digest.write(frame.data)
                    progress()
        written = digest.sha256.hexdigest()
        if sha256(part) != written:
            raise OSError(f'{part} does not contain what was written to it; check the disk')
        put_in_place(part, file)
    finally:
        part.unlink(missing_ok=True)
    return dict(frames=list(clip.frames), shape=list(shape), sha256=written)


def _read(clip: Clip, name: str, path: str) -> np.ndarray:
    try:
        return read_frame(path)
    except ValueError as error:
        raise DatasetError(f'clip {clip.name}, frame {name}: {error}') from error


class _HashedFile:
    """A file that computes the checksum of everything written to it."""

    def __init__(self, file) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, data) -> None:
        self.sha256.update(data)
        self.file.write(data)


def stored_bytes(clip: Clip) -> int:
    """Return the size of a clip's file, assuming that all frames are as large as the first."""
    sides = 2 if clip.sharp else 1
    return _HEADER + sides * len(clip.frames) * _read(clip, clip.frames[0], clip.blurry[0]).size


def new_index(layout: str, layout_args: dict[str, str]) -> dict:
    """Return the index of an empty store."""
    return dict(format=FORMAT, layout=layout, layout_args=layout_args, splits={})


def require_source(root: Path, index: dict, layout: str, layout_args: dict[str, str]) -> None:
    """Raise a DatasetError unless the store was made from this layout with these arguments."""
    there, asked = index['layout_args'], layout_args
    if index['layout'] == layout:
        there, asked = (with_defaults(layout, given) for given in (there, asked))
    if (index['layout'], there) != (layout, asked):
        raise DatasetError(
            f'the clip store {root.resolve()} was made from the {index["layout"]} layout with '
            f'{index["layout_args"] or "no layout_args"}, but {layout} with '
            f'{layout_args or "no layout_args"} was requested. Request what the store was made '
            'from, or convert the data set into another folder.'
        )


def read_index(root: Path) -> dict:
    """Read and validate the index of a store."""
    path = root / INDEX
    try:
        index = json.loads(path.read_text(encoding='utf-8'))
        if index['format'] != FORMAT:
            raise ValueError(f'its format is {index["format"]!r}')
        if not {'layout', 'layout_args', 'splits'} <= index.keys():
            raise ValueError('a key is missing')
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DatasetError(
            f'{path.resolve()} is not a clip store index ({error!r}). Convert the data set again.'
        ) from error
    return index


def write_index(root: Path, index: dict) -> None:
    """Replace the index of a store atomically."""
    write_whole(root / INDEX, json.dumps(index).encode())
