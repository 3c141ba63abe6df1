"""Restore a few frames of a clip, to see whether restoring all of it is worth the time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dblrgan_mm.clips.clip import pad_index
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.inference.restore_clip import Options
from dblrgan_mm.video.images import encode_frame
from dblrgan_mm.video.reading import ClipFrame, open_clip
from dblrgan_mm.viewer import ViewedClip


@dataclass
class Preview:
    """Some frames of a clip, and how long it takes to restore all of them.

    Attributes:
        clip: the blurry and restored frames, for a page.
        frames: number of frames to restore.
        seconds: time per frame, without decoding and encoding.
    """

    clip: ViewedClip
    frames: int
    seconds: float

    @property
    def estimate(self) -> str:
        """How long restoring the whole clip takes, in words."""
        return (
            f'{self.frames} frames, restoring all of them takes about '
            f'{duration(self.frames * self.seconds)} ({self.seconds:.2g} s per frame)'
        )


def preview(
    source: Path,
    folder: Path,
    deblurrer: Deblurrer,
    count: int,
    options: Options | None = None,
    progress: Callable[[], object] = lambda: None,
) -> Preview:
    """Restore frames that are spread evenly over a clip, and write them as PNG.

    Args:
        source: a video, folder of images, or image.
        folder: where the frames are written.
        deblurrer: restores the frames.
        count: number of frames; a shorter clip is restored whole.
        options: ``start``, ``end`` and ``fps`` are used.
        progress: called after each frame.

    Raises:
        UserError: the source cannot be read, or has no frame between ``start`` and ``end``.
    """
    options = options or Options()
    clip = open_clip(source, options.fps)
    stated = clip.count()
    total = min(stated, options.end or stated) - options.start
    if total < 1:
        raise UserError(f'{source}: has no frame at or after --start {options.start}')
    count = min(count, total)
    numbers = [options.start + int((i + 0.5) * total / count) for i in range(count)]
    reach = deblurrer.network.num_frames // 2
    names: list[str] = []
    images: dict[str, list[Path]] = dict(blurry=[], restored=[])
    times: list[float] = []
    fault: UserError | None = None
    for number in numbers:
        try:
            centre, frames = clip.around(number, reach)
        except UserError as error:  # a damaged part
            fault = error
            continue
        window = [
            frames[pad_index(centre + i, len(frames), 'reflection')]
            for i in range(-reach, reach + 1)
        ]
        begin = time.perf_counter()
        restored = deblurrer.centre([frame.image for frame in window])
        times.append(time.perf_counter() - begin)
        for method, image in (('blurry', window[reach].image), ('restored', restored)):
            path = folder / method / f'{number:06d}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_frame(image, '.png', tags=clip.format.tags)[0])
            images[method].append(path)
        names.append(_name(window[reach], float(clip.format.time_base)))
        progress()
    if fault is not None and not times:
        raise fault
    seconds = statistics.median(times[1:] or times)  # the first one is slower
    return Preview(ViewedClip(source.name, names, images, {}), total, seconds)


def _name(frame: ClipFrame, time_base: float) -> str:
    """Return the file name of an image, or the time of a frame of a video."""
    if frame.path:
        return frame.path.name
    minutes, seconds = divmod(frame.pts * time_base, 60)
    return f'{minutes:.0f}:{seconds:05.2f}'


def duration(seconds: float) -> str:
    """Return a duration in words, rounded: '40 s', '3 min', '2 h 10 min'."""
    if seconds < 90:
        return f'{max(1, round(seconds))} s'
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min'
