"""The pairs of a clip: read frames and estimate flows once, then average."""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dblrgan_mm.clips.frames import encode_image
from dblrgan_mm.clips.motion_blur import (
    Flows,
    blur_by_average,
    blur_by_flow,
    estimate_flows,
    sub_frame_times,
)
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.scan import shrink
from dblrgan_mm.synthesis.workers import Workers
from dblrgan_mm.video.sources import decode


class Footage:
    """The downscaled frames of a source, and the flows between them.

    If clips are requested in the order of their frames, the source is read in one pass.

    Args:
        source: Video, or folder of frames.
        size: Width and height to downscale to.
        pool: Threads that estimate the flows.
        keep_from: Number of the first frame to keep, with all later frames and flows, for clips
            that share them. None: keep only what later pairs of one clip need.
    """

    def __init__(
        self, source: Path, size: tuple[int, int], pool: Workers, keep_from: int | None = None
    ) -> None:
        self.source, self.size, self.pool, self.keep_from = source, size, pool, keep_from
        self._coming = decode(source)
        self._next = 0
        self._frames: dict[int, np.ndarray] = {}
        self._flows: dict[int, Future[Flows]] = {}

    def between(self, first: int, last: int) -> list[np.ndarray]:
        """Return frames `first` to `last`, inclusive, uint8 (h, w, 3), BGR."""
        if self.keep_from is None:
            for held in (self._frames, self._flows):
                for i in [i for i in held if i < first]:
                    del held[i]
        if any(i not in self._frames for i in range(first, min(last + 1, self._next))):
            self._coming, self._next = decode(self.source), 0
        needed = first if self.keep_from is None else min(first, self.keep_from)
        while self._next <= last:
            _, load = next(self._coming, (None, None))
            if load is None:
                raise UserError(
                    f'{self.source}: became shorter during the run; run the command again'
                )
            if self._next >= needed and self._next not in self._frames:
                self._frames[self._next] = shrink(load(), self.size)
            self._next += 1
        return [self._frames[i] for i in range(first, last + 1)]

    def flows(self, first: int, last: int) -> list[Future[Flows]]:
        """Return the flows from each frame to the next and back, `first` to `last`, as futures."""
        images = self.between(first, last)
        for i in range(first, last):
            if i not in self._flows:
                pair = images[i - first : i - first + 2]
                self._flows[i] = self.pool.submit(estimate_flows, *pair)
        return [self._flows[i] for i in range(first, last)]


def bytes_held(size: tuple[int, int]) -> int:
    """Return the memory that `Footage` needs for a frame of this size and its flows."""
    return size[0] * size[1] * (3 + 2 * 2 * 4)


def exposure_times(settings: dict[str, Any], n: int) -> np.ndarray | None:
    """Return sub-frame times of pair n, in source intervals from its middle; None for a window."""
    if 'window' in settings:
        return None
    stride, sub_frames = settings['stride'], settings['sub_frames']
    if 'shutters' in settings:
        return sub_frame_times(stride, settings['shutters'][n], sub_frames, least=3)
    return sub_frame_times(stride, settings['shutter'], sub_frames)


def pair_jobs(
    settings: dict[str, Any], footage: Footage, done: int
) -> Iterator[Callable[[], tuple[bytes, bytes, float]]]:
    """Yield functions that make the pairs of a clip, starting with pair number `done`."""
    for n in range(done, settings['pairs']):
        middle = settings['first_frame'] + n * settings['stride']
        times = exposure_times(settings, n)
        if times is None:
            before = after = settings['window'] // 2
            flows = []
        else:
            before, after = -math.floor(times[0]), math.floor(times[-1]) + 1
            times = times + before
            # submitted before their pair, which waits for them in a thread
            flows = footage.flows(middle - before, middle + after)
        images = footage.between(middle - before, middle + after)
        yield functools.partial(
            make_pair, images, before, flows, times, settings['light'], settings.get('lights', 1)
        )


def make_pair(
    images: list[np.ndarray],
    middle: int,
    flows: list[Future[Flows]],
    times: np.ndarray | None,
    light: str,
    lights: float = 1,
) -> tuple[bytes, bytes, float]:
    """Return the blurry and the sharp frame as PNG, and the PSNR between them in dB."""
    if times is None:
        blur = blur_by_average(images, light, lights)
    else:
        blur = blur_by_flow(images, [flow.result() for flow in flows], times, light, lights)
    sharp = images[middle]
    level = [cv2.IMWRITE_PNG_COMPRESSION, 3]  # 9 takes 4 to 15 times as long, saves 2 to 10 %
    blur_png, sharp_png = (encode_image(image, '.png', level) for image in (blur, sharp))
    return blur_png, sharp_png, cv2.PSNR(blur, sharp)
