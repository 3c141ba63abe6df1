"""Find the videos and folders of images that a path denotes, and read their frames."""

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dblrgan_mm.clips.frames import frame_paths, read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import HLG, PQ, Video, is_video_name, to_array

logger = logging.getLogger('dblrgan_mm')


def expand(source: Path) -> list[Path]:
    """Return the sources that a path denotes: itself, or the videos and frame folders inside it.

    All other files of a folder, except hidden ones, are named in the log.
    """
    if not source.exists():
        raise UserError(f'{source}: no such file or folder; check the path')
    if not source.is_dir():
        return [source]
    inside = _visible(source)
    images = frame_paths(source)
    videos = [path for path in inside if path.is_file() and is_video_name(path)]
    if images and videos:
        raise UserError(f'{source}: contains both images and videos; give only the ones to use')
    folders = {path: frame_paths(path) for path in inside if path.is_dir() and not images}
    folders = {path: frames for path, frames in folders.items() if frames}
    found = [source] if images else [*videos, *folders]
    if not found:
        raise UserError(f'{source}: no images or videos in this folder; give a folder with some')
    used = {source: images or found} | folders
    unused = [
        str(path.relative_to(source))
        for folder, paths in used.items()
        for path in sorted(set(_visible(folder)).difference(paths))
    ]
    if unused:
        more = f' and {len(unused) - 10} more' if len(unused) > 10 else ''
        logger.warning('%s: left out: %s%s', source, ', '.join(unused[:10]), more)
    return found


def _visible(folder: Path) -> list[Path]:
    """Return the contents of a folder except hidden files, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.name[0] != '.')


def decode(source: Path) -> Iterator[tuple[float | None, Callable[[], np.ndarray]]]:
    """Yield the time of each frame in seconds, and a function that loads the frame.

    Times are None for a folder. Frames are uint8 (h, w, 3), BGR. A frame that is not loaded costs
    little.

    Raises:
        UserError: the source is not a video, is HDR, is damaged, or ends too early.
    """
    if source.is_dir():
        for path in frame_paths(source):
            yield None, functools.partial(load_image, path)
        return
    video = Video(source)
    for frame in video:
        if video.faults:
            break
        if frame.color_trc in (PQ, HLG):
            raise UserError(
                f'{source}: is HDR video (PQ or HLG), but blur is computed from the light of '
                'standard video; convert it to BT.709 first'
            )
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
