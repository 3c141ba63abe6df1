"""Read clips to restore: videos, folders of images, single images."""

import contextlib
import hashlib
import itertools
from collections.abc import Generator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dblrgan_mm.clips.frames import IMAGE_SUFFIXES, frame_paths, read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import EXACT, RESTART, Format, Video, frame_format, to_array
from dblrgan_mm.video.images import NAMES, read_metadata


@dataclass
class ClipFrame:
    """A frame of a clip.

    Attributes:
        image: RGB (h, w, 3), uint8, or uint16 over its full range.
        pts: time stamp, in units of the format's time base.
        path: the image file; None for a frame of a video.
    """

    image: np.ndarray
    pts: int
    path: Path | None = None


class VideoClip:
    """The frames of a video file, upright, in RGB.

    Args:
        path: any video that FFmpeg can read.

    Attributes:
        format: format of the video.
        frames: expected number of frames.
        faults: problems found while reading, one sentence each.

    Raises:
        UserError: the file is not a video, or has no video stream or no frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._video = Video(path)
        with contextlib.closing(iter(self._video)) as frames:
            first = next(frames)
        self._array(first)  # to fail early
        self.format = frame_format(first, self._video.rate, self._video.aspect)
        self.frames = self._video.frames

    def _array(self, frame: Any) -> np.ndarray:
        more = max(component.bits for component in frame.format.components) > 8
        try:
            return to_array(frame, 'rgb48le' if more else 'rgb24', EXACT)
        except UserError as error:
            raise UserError(f'{self.path}: {error}') from error

    @property
    def faults(self) -> list[str]:
        return self._video.faults

    @property
    def last_duration(self) -> int | None:
        """Duration of the last frame, in units of the time base; known when all are read."""
        return self._video.last_duration

    def count(self) -> int:
        """Return the number of frames; decodes the whole video if the file does not state it."""
        return self.frames or sum(1 for _ in self._video)

    def around(self, number: int, reach: int) -> tuple[int, list[ClipFrame]]:
        """Return the place of a frame in a list of it and up to ``reach`` frames on both sides.

        The number is exact if the frame rate is constant and the file stores when frames are shown
        (AVI does not, if they are stored out of order).

        Raises:
            UserError: there is no such frame.
        """
        first = max(0, number - reach)
        interval = 1 / self.format.rate / self.format.time_base
        with contextlib.closing(self._video.from_frame(first)) as frames:
            found = [
                ClipFrame(self._array(f), round(i * interval) if f.pts is None else f.pts)
                for i, f in enumerate(itertools.islice(frames, number - first + 1 + reach), first)
            ]
        size = self.format.width, self.format.height
        found = list(itertools.takewhile(lambda f: f.image.shape[1::-1] == size, found))
        if not found:
            raise UserError(f'{self.path}: no frame can be decoded at frame {number}')
        return min(number - first, len(found) - 1), found

    def __iter__(self) -> Generator[ClipFrame, None, None]:
        """Yield the frames that can be read, in order, with increasing time stamps.

        Where time stamps jump back, as in files that were joined, they continue from the last one.
        """
        size = self.format.width, self.format.height
        interval = max(1, round(1 / self.format.rate / self.format.time_base))
        last, shift = None, 0
        for i, frame in enumerate(self._video):
            image = self._array(frame)
            if image.shape[1::-1] != size:
                self.faults.append(
                    f'{self.path}: frame {i} is {image.shape[1]}x{image.shape[0]}, but the frames '
                    f'before it are {size[0]}x{size[1]}: the output ends there; cut the video at '
                    'this frame and restore the parts separately'
                )
                return
            pts = None if frame.pts is None else frame.pts + shift
            if last is None:
                last = pts or 0
            elif pts is None:
                last += interval
            elif (last - pts) * self.format.time_base > RESTART:
                shift += last + interval - pts
                last += interval
            else:
                last = max(pts, last + 1)
            yield ClipFrame(image, last)


class ImageClip:
    """The images of a folder, in numerical order, or one image; 8-bit colour.

    Args:
        path: a folder or an image file.
        rate: frames per second of a video that is made from the images.

    Raises:
        UserError: the folder has no images, or two images of the same name; while reading: an
            image cannot be read or has another size.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path = path
        self._paths = frame_paths(path) if path.is_dir() else [path]
        if not self._paths:
            raise UserError(f'{path}: no images in this folder; use the folder that has them')
        by_name: dict[str, Path] = {}
        for image in self._paths:
            other = by_name.setdefault(image.stem, image)
            if other is not image:
                raise UserError(
                    f'{path}: {other.name} and {image.name} are the same frame; remove one of them'
                )
        self.faults: list[str] = []
        self.frames = len(self._paths)
        height, width = self._read(self._paths[0]).shape[:2]
        stored = cv2.imdecode(np.fromfile(self._paths[0], np.uint8), cv2.IMREAD_UNCHANGED)
        tags = dict(colorspace=1, color_range=1, color_primaries=1, color_trc=1)  # BT.709
        self.format = Format(
            width,
            height,
            rate,
            time_base=1 / rate,
            bits=8,
            chroma='420',
            aspect=Fraction(1),
            tags=tags,
            alpha=stored is not None and stored.shape[-1] == 4,
            interlaced=False,
            lost=tuple(
                f'{NAMES.get(name, name)} of the images' for name in read_metadata(self._paths[0])
            ),
        )

    def count(self) -> int:
        """Return the number of frames."""
        return self.frames

    def around(self, number: int, reach: int) -> tuple[int, list[ClipFrame]]:
        """Return the place of a frame in a list of it and up to ``reach`` frames on both sides."""
        first = max(0, number - reach)
        paths = self._paths[first : number + reach + 1]
        return number - first, [
            ClipFrame(self._read(path), i, path) for i, path in enumerate(paths, first)
        ]

    def identity(self) -> str:
        """Return a digest of the names, sizes and times of the images, to detect changes."""
        digest = hashlib.sha256()
        for path in self._paths:
            status = path.stat()
            digest.update(f'{path.name}/{status.st_size}/{status.st_mtime_ns}/'.encode())
        return digest.hexdigest()

    @staticmethod
    def _read(path: Path) -> np.ndarray:
        try:
            return read_frame(path, 'rgb')
        except ValueError as error:
            raise UserError(str(error)) from error

    def __iter__(self) -> Generator[ClipFrame, None, None]:
        size = self.format.height, self.format.width
        for i, path in enumerate(self._paths):
            image = self._read(path)
            if image.shape[:2] != size:
                raise UserError(
                    f'{path}: {image.shape[1]}x{image.shape[0]}, but the images before it are '
                    f'{size[1]}x{size[0]}; all frames of a clip must have the same size'
                )
            yield ClipFrame(image, i, path)


def open_clip(path: Path, rate: Fraction = Fraction(25)) -> VideoClip | ImageClip:
    """Open a folder of images, an image file, or a video.

    Args:
        path: the file or folder.
        rate: frames per second of a video that is made from images.
    """
    if not path.exists():
        raise UserError(f'{path}: no such file or folder; check the path')
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageClip(path, rate)
    return VideoClip(path)
