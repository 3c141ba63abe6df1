"""Sharp frames from videos and from folders of images."""

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dblrgan_mm.clips.frames import IMAGE_SUFFIXES, read_frame
from dblrgan_mm.errors import UserError

VIDEO_SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mts', '.m2ts', '.ts', '.mpg')


def frame_paths(folder: Path) -> list[Path]:
    """The images in a folder, in numerical order."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != '.']
    return sorted(paths, key=lambda path: ([int(n) for n in re.findall(r'\d+', path.stem)], path))


def expand(source: Path) -> list[Path]:
    """The sources that a path stands for: itself, or the videos or folders of frames inside it."""
    if not source.exists():
        raise UserError(f'{source}: no such file or folder; check the path')
    if not source.is_dir():
        return [source]
    inside = sorted(path for path in source.iterdir() if path.name[0] != '.')
    videos = [p for p in inside if p.is_file() and p.suffix.lower() in VIDEO_SUFFIXES]
    folders = [p for p in inside if p.is_dir() and frame_paths(p)]
    images = frame_paths(source)
    if images and videos:
        raise UserError(f'{source}: holds images and videos; give those that are meant')
    if not images + videos + folders:
        raise UserError(f'{source}: no images or videos in this folder; give the one that has them')
    return [source] if images else videos + folders


def decode(source: Path) -> Iterator[tuple[float | None, Callable[[], np.ndarray]]]:
    """Yield each frame's time in seconds, None in a folder, and a function that gives the frame.

    Frames are uint8 (h, w, 3), BGR. Those that are not asked for cost little.

    Raises:
        UserError: The source is no video, or its end is missing.
    """
    if source.is_dir():
        for path in frame_paths(source):
            yield None, functools.partial(load_image, path)
        return
    import av  # folders do without it

    count = 0
    first = last = 0.0
    try:
        with av.open(str(source)) as container:
            if not container.streams.video:
                raise UserError(f'{source}: has no video stream; give a video')
            stream = container.streams.video[0]
            stream.thread_type = 'AUTO'
            for count, frame in enumerate(container.decode(stream), 1):
                first, last = frame.time if count == 1 else first, frame.time
                yield frame.time, functools.partial(convert_frame, frame, source, count - 1)
            interval = 1 / float(stream.average_rate or 25)
            duration = (container.duration or 0) / 1e6
            if stream.duration is not None:
                duration = float(stream.duration * stream.time_base)
            claimed = stream.frames or round(duration / interval)
    except av.FFmpegError as error:
        if count == 0:
            raise UserError(
                f'{source}: not a video that can be read ({error.strerror}); give a video or a '
                'folder of frames'
            ) from error
        raise UserError(
            f'{source}: cannot be decoded after its first {count} frames ({error.strerror}); copy '
            'it again, or stay within them with --count'
        ) from error
    seconds = count * interval if None in (first, last) else last - first + interval
    # not the number alone: that counts frames too which an edit list in the file leaves out
    if count < 0.9 * claimed and seconds < 0.9 * duration:
        raise UserError(
            f'{source}: ends after {count} of {claimed} frames; copy it again, or stay within what '
            'is there with --start and --count'
        )


def load_image(path: Path) -> np.ndarray:
    """Read an image file, uint8 (h, w, 3), BGR."""
    try:
        return read_frame(path, 'bgr')
    except ValueError as error:
        raise UserError(str(error)) from error


def convert_frame(frame: Any, source: Path, number: int) -> np.ndarray:
    """Turn a frame of a video upright, uint8 (h, w, 3), BGR."""
    if frame.is_corrupt:
        raise UserError(
            f'{source}: frame {number} is damaged; copy it again, or stay before it with --count'
        )
    upright = np.rot90(frame.to_ndarray(format='bgr24'), frame.rotation // 90)
    return np.ascontiguousarray(upright)
