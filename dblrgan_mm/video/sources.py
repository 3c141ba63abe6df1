"""The videos and folders of images that a path stands for, and their frames."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dblrgan_mm.clips.frames import frame_paths, read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import VIDEO_SUFFIXES, Video, to_array


def expand(source: Path) -> list[Path]:
    """Return the sources a path stands for: itself, or the videos and frame folders inside it."""
    if not source.exists():
        raise UserError(f'{source}: no such file or folder; check the path')
    if not source.is_dir():
        return [source]
    inside = sorted(path for path in source.iterdir() if path.name[0] != '.')
    videos = [p for p in inside if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
    folders = [p for p in inside if p.is_dir() and frame_paths(p)]
    images = frame_paths(source)
    if images and videos:
        raise UserError(f'{source}: contains both images and videos; give only the ones to use')
    if not images + videos + folders:
        raise UserError(f'{source}: no images or videos in this folder; give a folder with some')
    return [source] if images else videos + folders


def decode(source: Path) -> Iterator[tuple[float | None, Callable[[], np.ndarray]]]:
    """Yield the time of each frame in seconds, and a function that loads the frame.

    Times are None for a folder. Frames are uint8 (h, w, 3), BGR. A frame that is not loaded costs
    little.

    Raises:
        UserError: The source is not a video, is damaged, or ends too early.
    """
    if source.is_dir():
        for path in frame_paths(source):
            yield None, functools.partial(load_image, path)
        return
    video = Video(source)
    for frame in video:
        if video.faults:
            break
        yield frame.time, functools.partial(to_array, frame, 'bgr24')
    if video.faults:
        raise UserError(
            f'{video.faults[0]}; copy it again, or use only the intact part, with --start and '
            '--count'
        )


def load_image(path: Path) -> np.ndarray:
    """Read an image file, uint8 (h, w, 3), BGR."""
    try:
        return read_frame(path, 'bgr')
    except ValueError as error:
        raise UserError(str(error)) from error
