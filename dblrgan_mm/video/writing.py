"""Write restored clips: videos, folders of images, single images."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dblrgan_mm import files
from dblrgan_mm.clips.frames import IMAGE_SUFFIXES, read_frame
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.decoding import EXACT, Format
from dblrgan_mm.video.images import encode_frame, read_metadata
from dblrgan_mm.video.muxing import mux
from dblrgan_mm.video.reading import ClipFrame

CONTAINERS = ('.mp4', '.mkv', '.mov')
CODECS = {'h264': 'libx264', 'h265': 'libx265', 'ffv1': 'ffv1'}
SEGMENT = 64  # frames encoded into one file; an interrupted run loses at most these
_DEFAULT_CRF = {'h264': 17, 'h265': 19}


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
    """Restored frames as PNG files in a folder that becomes the target.

    Args:
        folder: the folder of the unfinished run.
        given: format of the frames.
    """

    def __init__(self, folder: Path, given: Format) -> None:
        self.folder = folder / 'frames'
        self.folder.mkdir(exist_ok=True)
        self.format = given
        self._left_out: list[str] = []

    def finished(self) -> int:
        """Return the number of complete frames."""
        return sum(1 for path in self.folder.iterdir() if path.suffix == '.png')

    def write(self, frames: Iterable[ClipFrame]) -> Iterator[int]:
        """Write frames; yield 1 for each. Images keep their names and metadata."""
        for number, frame in enumerate(frames, self.finished()):
            name = f'{number:06d}' if frame.path is None else frame.path.stem
            metadata = {} if frame.path is None else read_metadata(frame.path)
            content, lost = encode_frame(frame.image, '.png', metadata, self.format.tags)
            part = self.folder / f'{name}.part'
            part.write_bytes(content)
            files.put_in_place(part, self.folder / f'{name}.png')
            self._left_out += lost
            yield 1

    def finish(self, target: Path, source: Path | None) -> list[str]:
        """Move the frames to the target, which is a folder or one image.

        Args:
            target: the folder or image.
            source: the video that the frames come from; None: they come from images.

        Returns:
            Descriptions of what could not be copied, a few words each.
        """
        if source is not None:
            self._left_out += self.format.lost
            if self.format.light:
                self._left_out.append('HDR10 metadata, which is not written to images')
        if target.suffix.lower() not in IMAGE_SUFFIXES:
            replaced = self.folder.with_name('replaced')
            if target.is_dir():
                target.rename(replaced)
            self.folder.rename(target)
        else:
            (image,) = self.folder.glob('*.png')
            if target.suffix.lower() != '.png':
                metadata = read_metadata(image)
                content, lost = encode_frame(read_frame(image), target.suffix.lower(), metadata)
                self._left_out += lost
                image = image.with_suffix(target.suffix)
                image.write_bytes(content)
            files.put_in_place(image, target)
        return list(dict.fromkeys(self._left_out))


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
                stream: Any = container.add_stream(
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
                dst_colorspace=tags['colorspace'],
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
