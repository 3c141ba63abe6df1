"""Reading video files with PyAV."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from dblrgan_mm.errors import UserError

VIDEO_SUFFIXES = ('.mp4', '.mov', '.m4v', '.avi', '.mkv', '.webm', '.mts', '.m2ts', '.ts', '.mpg')

# of FFmpeg's scaler: bicubic, chroma at full width, exact rounding. Luma that goes to RGB and back
# keeps 78 dB of PSNR with it, and 46 dB without.
EXACT = 4 | 8192 | 16384 | 262144

# Seconds: time stamps that fall back by more do not merely jitter, two files were joined
RESTART = 0.5

# FFmpeg draws text files as pictures ('tty') and follows lists of other files and addresses
_NO_VIDEOS = {'tty', 'concat', 'hls', 'dash', 'lavfi', 'image2', 'srt', 'ass', 'webvtt'}


def open_container(path: Path) -> Any:
    """Open a video with PyAV, local files alone.

    Raises:
        UserError: it is missing, or no video that FFmpeg can read.
    """
    import av  # who reads folders does without it

    if not path.is_file():
        raise UserError(f'{path}: no such file; check the path')
    try:
        # absolute: FFmpeg takes what stands before a colon for a protocol
        container = av.open(
            os.path.abspath(path),
            options={'protocol_whitelist': 'file'},
            metadata_errors='replace',
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        told = getattr(error, 'strerror', None) or type(error).__name__
        raise UserError(
            f'{path}: not a video that can be read ({told}); give a video or a folder of frames'
        ) from error
    if _NO_VIDEOS & set(container.format.name.split(',')):
        container.close()
        raise UserError(f'{path}: not a video; give a video or a folder of frames')
    return container


def video_stream(container: Any, path: Path) -> Any:
    """The stream of moving pictures; cover art does not count."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise UserError(f'{path}: has no video stream; give a video')


@dataclass(frozen=True)
class Format:
    """What a video is like, as it is shown: after rotation.

    Attributes:
        width, height: pixels.
        rate: frames per second on average.
        time_base: unit of the time stamps, seconds.
        bits: of a colour value as stored, 8 to 16.
        chroma: sampling, '420', '422' or '444'; RGB counts as '444'.
        aspect: width of a pixel by its height.
        tags: colorspace, color_range, color_primaries, color_trc, FFmpeg's numbers.
        alpha: whether there is a channel of transparency.
        interlaced: whether frames are made of two fields.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    bits: int
    chroma: str
    aspect: Fraction
    tags: dict[str, int]
    alpha: bool
    interlaced: bool


class Video:
    """Decodes a video from front to end, past damaged places.

    Attributes:
        frames: how many there should be, by the file's own word, estimated where it says none; 0
            where it tells no duration of the video either.
        read: how many were decoded so far.
        last_duration: how long the frame that is shown last stays, in units of its time base;
            None until it is read, and where the file does not say.
        faults: what was found wrong so far, one sentence each.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self.faults: list[str] = []
        with open_container(path) as container:
            stream = video_stream(container, path)
            self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            self.duration = _duration(container, stream)
            self.frames = stream.frames or round(self.duration * self.rate)
        self.last_duration: int | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield PyAV's frames.

        Raises:
            UserError: not one can be decoded.
        """
        import av

        self.read, self.faults, damaged = 0, [], None
        first = last = 0.0
        shown_last = None
        with open_container(self.path) as container:
            stream = video_stream(container, self.path)
            stream.thread_type = 'AUTO'
            packets = container.demux(stream)
            while True:
                try:
                    packet = next(packets, None)
                except av.FFmpegError as error:
                    self.faults.append(
                        f'{self.path}: cannot be read on after its first {self.read} frames '
                        f'({error.strerror})'
                    )
                    break
                if packet is None:
                    break
                if packet.pts is not None and (shown_last is None or packet.pts > shown_last):
                    shown_last, self.last_duration = packet.pts, packet.duration
                try:
                    frames = stream.decode(packet)
                except av.FFmpegError as error:
                    if damaged is None:
                        damaged = error
                        self.faults.append(
                            f'{self.path}: cannot be decoded after its first {self.read} frames '
                            f'({error.strerror})'
                        )
                    continue
                for frame in frames:
                    if frame.is_corrupt:
                        self.faults.append(f'{self.path}: frame {self.read} is damaged')
                    first, last = (first if self.read else frame.time), frame.time
                    self.read += 1
                    yield frame
        if self.read == 0:
            told = f' ({damaged.strerror})' if damaged else ''
            raise UserError(
                f'{self.path}: not a video that can be read{told}: not one frame can be decoded; '
                'give another'
            )
        seconds = self.read / self.rate
        if None not in (first, last):
            seconds = last - first + 1 / self.rate
        # not the number alone: that counts frames too which an edit list in the file leaves out
        if self.read < 0.9 * self.frames and seconds < 0.9 * self.duration:
            self.faults.append(f'{self.path}: ends after {self.read} of {self.frames} frames')


def _duration(container: Any, stream: Any) -> float:
    """Seconds that a video stream lasts by the file's word; 0.0 if that is of its sound, too."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    for key, value in stream.metadata.items():  # Matroska: when the stream ends, from 0 on
        if key.startswith('DURATION') and (clock := re.fullmatch(r'(\d+):(\d+):([\d.]+)', value)):
            hours, minutes, seconds = (float(part) for part in clock.groups())
            end = 3600 * hours + 60 * minutes + seconds
            return end - float((stream.start_time or 0) * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def frame_format(frame: Any, rate: Fraction, aspect: Fraction | None) -> Format:
    """The format of the video that begins with a frame of PyAV."""
    stored = frame.format
    halved = stored.chroma_width(64) == 32, stored.chroma_height(64) == 32
    chroma = '444'
    if not stored.is_rgb and len(stored.components) > 1:
        chroma = {(True, True): '420', (True, False): '422'}.get(halved, '444')
    elif not stored.is_rgb:
        chroma = '420'  # grey
    width, height, aspect = frame.width, frame.height, aspect or Fraction(1)
    if frame.rotation % 180:
        width, height, aspect = height, width, 1 / aspect
    names = ('colorspace', 'color_range', 'color_primaries', 'color_trc')
    tags = {name: int(getattr(frame, name)) for name in names}
    if stored.is_rgb:
        tags |= dict(colorspace=2, color_range=0)  # of the RGB: no word on how to store YCbCr
    elif stored.name.startswith('yuvj'):
        tags['color_range'] = 2
    return Format(
        width,
        height,
        rate,
        frame.time_base,
        max(8, *(component.bits for component in stored.components)),
        chroma,
        aspect,
        tags,
        any(component.is_alpha for component in stored.components),
        frame.interlaced_frame,
    )


def to_array(frame: Any, pixels: str, interpolation: int | None = None) -> np.ndarray:
    """A frame of PyAV turned upright, (h, w, 3), e.g. 'rgb24' (uint8) or 'rgb48le' (uint16)."""
    import av

    try:
        array = frame.to_ndarray(format=pixels, interpolation=interpolation)
    except av.FFmpegError as error:
        raise UserError(
            f'a frame of {frame.width}x{frame.height} {frame.format.name} with the colour matrix '
            f'{int(frame.colorspace)} of FFmpeg cannot be turned into RGB ({error.strerror}); '
            'convert the video to BT.709 first'
        ) from error
    return np.ascontiguousarray(np.rot90(array, frame.rotation // 90))
