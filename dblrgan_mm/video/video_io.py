"""Read clips to restore, and write restored clips: videos, folders of images, single images."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dblrgan_mm import files
from dblrgan_mm.clips.frames import IMAGE_SUFFIXES, encode_image, frame_paths, read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import (
    EXACT,
    RESTART,
    VIDEO_SUFFIXES,
    Format,
    Video,
    frame_format,
    to_array,
)
from dblrgan_mm.video.muxing import mux

CONTAINERS = ('.mp4', '.mkv', '.mov')
CODECS = {'h264': 'libx264', 'h265': 'libx265', 'ffv1': 'ffv1'}
SEGMENT = 64  # frames encoded into one file, and at most lost by an interrupted run
_DEFAULT_CRF = {'h264': 17, 'h265': 19}


@dataclass
class ClipFrame:
    """A frame of a clip.

    Attributes:
        image: RGB (h, w, 3), uint8, or uint16 over its full range.
        pts: time stamp, in units of the format's time base.
        name: name of the image file without its suffix; None for a frame of a video.
    """

    image: np.ndarray
    pts: int
    name: str | None = None


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

    def __iter__(self) -> Iterator[ClipFrame]:
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
            alpha=stored.shape[-1] == 4,
            interlaced=False,
        )

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

    def __iter__(self) -> Iterator[ClipFrame]:
        size = self.format.height, self.format.width
        for i, path in enumerate(self._paths):
            image = self._read(path)
            if image.shape[:2] != size:
                raise UserError(
                    f'{path}: {image.shape[1]}x{image.shape[0]}, but the images before it are '
                    f'{size[1]}x{size[0]}; all frames of a clip must have the same size'
                )
            yield ClipFrame(image, i, path.stem)


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


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded: FFmpeg's names of encoder and pixel format, and encoder options."""

    codec: str
    pixels: str
    options: dict[str, str]


def choose_encoding(
    target: Path, given: Format, codec: str | None = None, crf: int | None = None
) -> Encoding:
    """Choose encoder and pixel format for a restored video.

    Chroma sampling and bit depth are those of the source, except that frames with an odd width or
    height that 4:2:0 or 4:2:2 cannot store become 4:4:4.

    Args:
        target: path of the video; its suffix selects the container.
        given: format of the frames.
        codec: 'h264', 'h265', or 'ffv1', which stores RGB losslessly. None: H.264, or H.265 for
            more than 8 bits.
        crf: constant rate factor of H.264 or H.265; lower means better quality and larger files.

    Raises:
        UserError: the container does not support the codec, or the codec does not support the bit
            depth or frame size.
    """
    codec = codec or ('h264' if given.bits == 8 else 'h265')
    if codec == 'ffv1':
        if target.suffix.lower() != '.mkv':
            raise UserError(f'{target}: ffv1 can only be stored in .mkv; choose that suffix')
        pixels = 'bgr0' if given.bits == 8 else 'gbrp16le'
        return Encoding('ffv1', pixels, dict(level='3', slicecrc='1'))
    if given.bits > 10:
        raise UserError(
            f'{target}: the source has {given.bits} bits per colour, but {codec} is written with '
            'at most 10; choose --codec ffv1 and .mkv'
        )
    least = 16 if codec == 'h265' else 1
    if min(given.width, given.height) < least:
        raise UserError(
            f'{target}: {given.width}x{given.height} is too small for {codec}; choose --codec '
            'ffv1 and .mkv, or a folder of images'
        )
    odd = given.width % 2 or (given.chroma == '420' and given.height % 2)
    pixels = f'yuv{"444" if odd else given.chroma}p' + '10le' * (given.bits > 8)
    options = dict(crf=str(_DEFAULT_CRF[codec] if crf is None else crf))
    light = given.light
    if codec == 'h265':
        words = {'log-level': 'error'} | light
        options['x265-params'] = ':'.join(f'{key}={value}' for key, value in words.items())
    elif light:
        names = {'master-display': 'mastering-display', 'max-cll': 'cll'}
        options['x264-params'] = ':'.join(f'{names[key]}={value}' for key, value in light.items())
    return Encoding(CODECS[codec], pixels, options)


class ImageParts:
    """Restored frames as PNG files in a folder that becomes the target."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / 'frames'
        self.folder.mkdir(exist_ok=True)

    def finished(self) -> int:
        """Return the number of complete frames."""
        return sum(1 for path in self.folder.iterdir() if path.suffix == '.png')

    def write(self, frames: Iterable[ClipFrame]) -> Iterator[int]:
        """Write frames; yield 1 for each."""
        for number, frame in enumerate(frames, self.finished()):
            name = frame.name or f'{number:06d}'
            part = self.folder / f'{name}.part'
            part.write_bytes(encoded_image(frame.image, '.png'))
            files.put_in_place(part, self.folder / f'{name}.png')
            yield 1

    def finish(self, target: Path) -> None:
        """Move the frames to the target, which is a folder or one image."""
        if target.suffix.lower() not in IMAGE_SUFFIXES:
            replaced = self.folder.with_name('replaced')
            if target.is_dir():
                target.rename(replaced)
            self.folder.rename(target)
            return
        (image,) = self.folder.glob('*.png')
        if target.suffix.lower() != '.png':
            content = encoded_image(read_frame(image), target.suffix)
            image = image.with_suffix(target.suffix)
            image.write_bytes(content)
        files.put_in_place(image, target)


class VideoParts:
    """Restored frames as short encoded segments, which are joined at the end.

    An interrupted run therefore loses at most ``SEGMENT`` frames. The segments are NUT files, which
    store any time base exactly, named
    '<number>_<frames>_<time stamp of the first frame>_<bytes>.nut'.
    """

    def __init__(self, folder: Path, given: Format, encoding: Encoding) -> None:
        self.folder = folder
        self.format = given
        self.encoding = encoding
        self._filters: Any = None

    def segments(self) -> list[Path]:
        return sorted(self.folder.glob('[0-9]*.nut'))

    def finished(self) -> int:
        """Return the number of frames in complete segments, and remove the other segments.

        A damaged segment and all segments after it are removed.
        """
        count, whole = 0, True
        for path in self.segments():
            _, frames, _, size = path.stem.split('_')
            whole = whole and path.stat().st_size == int(size)
            if whole:
                count += int(frames)
            else:
                path.unlink()
        return count

    def write(self, frames: Iterable[ClipFrame]) -> Iterator[int]:
        """Encode frames; yield 1 for each."""
        frames = iter(frames)
        part = self.folder / 'segment.part'
        number = len(self.segments())
        for first in frames:
            with self._open(part) as (container, stream):
                count, decoding = 0, first.pts - SEGMENT
                frame: ClipFrame | None = first
                while frame is not None:
                    decoding = self._mux(container, stream.encode(self._picture(frame)), decoding)
                    count += 1
                    yield 1
                    frame = next(frames, None) if count < SEGMENT else None
                self._mux(container, stream.encode(None), decoding)
            name = f'{number:06d}_{count}_{first.pts}_{part.stat().st_size}.nut'
            files.put_in_place(part, self.folder / name)
            number += 1

    @staticmethod
    def _mux(container: Any, packets: list[Any], decoding: int) -> int:
        """Mux packets with decoding times that count up from ``decoding``; return the next one.

        The decoding times of libx265 are undefined for one or two frames. Here they only have to
        increase and must not be later than the presentation times; ``finish`` sets the final ones.
        """
        for packet in packets:
            packet.dts, decoding = decoding, decoding + 1
            container.mux(packet)
        return decoding

    @contextlib.contextmanager
    def _open(self, path: Path) -> Iterator[tuple[Any, Any]]:
        import av

        encoding, given = self.encoding, self.format
        try:
            with av.open(os.path.abspath(path), 'w', format='nut') as container:
                stream = container.add_stream(
                    encoding.codec, rate=given.rate, options=encoding.options
                )
                stream.width, stream.height = given.width, given.height
                stream.pix_fmt = encoding.pixels
                stream.time_base = stream.codec_context.time_base = given.time_base
                stream.codec_context.sample_aspect_ratio = given.aspect
                if encoding.codec != 'ffv1':  # which stores RGB
                    for name, value in given.tags.items():
                        setattr(stream.codec_context, name, value)
                yield container, stream
        except av.FFmpegError as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise UserError(
                f'{self.folder}: {encoding.codec} cannot encode {given.width}x{given.height} '
                f'{encoding.pixels} ({error.strerror}); choose another --codec, or a folder of '
                'images'
            ) from error

    def _picture(self, frame: ClipFrame) -> Any:
        import av

        pixels = 'rgb24' if frame.image.dtype == np.uint8 else 'rgb48le'
        picture = av.VideoFrame.from_ndarray(frame.image, format=pixels)
        if self.encoding.codec == 'ffv1':
            picture = picture.reformat(format=self.encoding.pixels)
            if self.format.aspect != 1:
                picture = self._with_aspect(picture)
        else:
            tags = self.format.tags
            picture = picture.reformat(
                format=self.encoding.pixels,
                dst_colorspace=None if tags['colorspace'] == 2 else tags['colorspace'],
                dst_color_range=tags['color_range'] or 1,
                interpolation=EXACT,
            )
        picture.pts, picture.time_base = frame.pts, self.format.time_base
        return picture

    def _with_aspect(self, picture: Any) -> Any:
        """Set the pixel aspect ratio of a frame.

        The FFV1 encoder reads it from the frame, and only a filter can set it there.
        """
        import av

        if self._filters is None:
            self._filters = graph = av.filter.Graph()
            aspect = f'{self.format.aspect.numerator}/{self.format.aspect.denominator}'
            graph.link_nodes(
                graph.add_buffer(
                    width=picture.width,
                    height=picture.height,
                    format=picture.format,
                    time_base=self.format.time_base,
                ),
                graph.add('setsar', aspect),
                graph.add('buffersink'),
            ).configure()
        self._filters.push(picture)
        return self._filters.pull()

    def finish(
        self, target: Path, source: Path | None, cut: bool, last_duration: int | None = None
    ) -> list[str]:
        """Join the segments, add the sound and subtitles of the source, and write the target.

        Args:
            target: path of the video.
            source: video to copy sound, subtitles, chapters and titles from; None: copy nothing.
            cut: whether only a part of the source was restored.
            last_duration: duration of the last frame, in units of the time base.

        Returns:
            Descriptions of what could not be copied, a few words each.
        """
        whole = self.folder / f'whole{target.suffix}'
        left_out = list(self.format.lost)
        if self.format.light and self.encoding.codec == 'ffv1':
            left_out.append('HDR10 metadata, which ffv1 does not store')
        left_out += mux(self.segments(), self.format, whole, source, cut, last_duration)
        files.put_in_place(whole, target)
        return left_out


def encoded_image(image: np.ndarray, suffix: str) -> bytes:
    """Encode an RGB image as the content of a .png or .jpg file."""
    quality = [] if suffix == '.png' else [cv2.IMWRITE_JPEG_QUALITY, 97]
    return encode_image(image[..., ::-1], suffix, quality)


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the unfinished run in a folder; {} if there are none."""
    try:
        return json.loads((folder / 'settings.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}


def doubled(given: Format) -> Format:
    """Return the format of two frames side by side."""
    return replace(given, width=2 * given.width)


def is_video_name(path: Path) -> bool:
    """Return whether a file name has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES
