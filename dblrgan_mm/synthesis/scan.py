"""The first pass over a source: find its size, motion, cuts and soft frames."""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dblrgan_mm.clips.motion_blur import estimate_flow, warp
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.workers import Workers
from dblrgan_mm.video.sources import decode

SCAN_HEIGHT = 96  # rows; motion and cuts are measured in frames downscaled to this height
SHARPNESS_HEIGHT = 240  # rows; sharpness is measured in frames downscaled to this height
NEIGHBOURS = 8  # a frame's sharpness is compared with this many frames on either side


def output_size(w: int, h: int, height: int) -> tuple[int, int]:
    """Return width and height of the pairs.

    They are those of the frames if `height` is 0; otherwise the aspect is kept, with an even width.
    """
    return (w, h) if height in (0, h) else (2 * round(w * height / h / 2), height)


def shrink(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Downscale a frame (h, w, 3) to a width and height by area averaging."""
    same = frame.shape[1::-1] == size
    return frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


@dataclass
class Scan:
    """Results of the first pass over a range of n frames.

    Attributes:
        frames: n.
        size: width and height.
        motion: (n - 1,) motion between neighbouring frames, 90th percentile over the picture, in
            picture heights.
        peak: (n - 1,) the same, 99th percentile: covers objects that move in a still picture.
        cut: (n - 1,) whether neighbouring frames belong to different shots.
        soft: (n,) whether a frame is too soft to be ground truth.
    """

    frames: int
    size: tuple[int, int]
    motion: np.ndarray
    peak: np.ndarray
    cut: np.ndarray
    soft: np.ndarray


def scan(
    source: Path,
    start: int,
    stop: int | None,
    heights: Sequence[int],
    max_softness: float,
    pool: Workers,
) -> Scan:
    """Analyse the frames from `start` up to, but not including, `stop`.

    Args:
        source: Video, or folder of frames.
        start: First frame.
        stop: End; None for all frames.
        heights: Heights in pixels that pairs may have; raises a UserError if the source is lower
            than all of them.
        max_softness: As in `find_soft`; 1 skips measuring the sharpness.
        pool: Threads that do the work.
    """
    from tqdm import tqdm

    times, sizes = [], []

    def looks() -> Iterator[Callable[[], tuple[float, float, bool, float]]]:
        before = None
        frames = itertools.islice(decode(source), start, stop)
        for time, load in tqdm(frames, f'scan {source.name}', unit='frame', leave=False):
            frame = load()
            h, w = frame.shape[:2]
            times.append(time)
            sizes.append((w, h))
            if sizes[0] != (w, h):
                raise UserError(
                    f'{source}: frame {start + len(sizes) - 1} has {w}x{h} pixels, but the '
                    'first one has {}x{}; give frames of equal size'.format(*sizes[0])
                )
            if h < min(heights):
                wanted = ' '.join(map(str, heights))
                raise UserError(
                    f'{source}: has {w}x{h} pixels, fewer rows than --height {wanted}; lower it'
                )
            small = small_grey(frame, SCAN_HEIGHT)
            yield functools.partial(look, before, small, frame if max_softness < 1 else None)
            before = small

    found = np.array([*pool.in_order(looks())], np.float64).reshape(-1, 4)
    motion, peak, cut = found[1:, :3].T
    cut = (cut > 0) | is_gap(times)
    soft = find_soft(found[:, 3], cut, max_softness)
    return Scan(len(sizes), sizes[0] if sizes else (0, 0), motion, peak, cut, soft)


def small_grey(frame: np.ndarray, height: int) -> np.ndarray:
    """Return a frame (h, w, 3) in grey, with at most `height` rows."""
    h, w = frame.shape[:2]
    return cv2.cvtColor(shrink(frame, output_size(w, h, min(h, height))), cv2.COLOR_BGR2GRAY)


def look(
    before: np.ndarray | None, small: np.ndarray, frame: np.ndarray | None
) -> tuple[float, float, bool, float]:
    """Return motion, peak and cut from the frame before to a small grey frame; and sharpness."""
    found = (0.0, 0.0, False) if before is None else compare(before, small)
    return *found, 0.0 if frame is None else sharpness(frame)


def compare(first: np.ndarray, second: np.ndarray) -> tuple[float, float, bool]:
    """Return motion, peak and cut between small grey frames, uint8 (h, w), as in `Scan`."""
    flow = estimate_flow(first, second)
    seen, found = first.astype(np.float32), warp(second.astype(np.float32), flow)[0]
    # 25 allows for noise of 5 grey levels. 0.2 is a fraction of both variances (one minus the
    # correlation), which was at most 0.15 in 1414 pairs of frames from 28 real clips, and at least
    # 0.26 at 756 artificial cuts.
    is_cut = np.var(seen - found) > 25 + 0.2 * (np.var(seen) + np.var(found))
    motion, peak = np.percentile(np.linalg.norm(flow, axis=2), (90, 99)) / len(first)
    return motion, peak, bool(is_cut)


def is_gap(times: Sequence[float | None]) -> np.ndarray:
    """Return which intervals between n times, in seconds, differ from the median by over half.

    Returns:
        bool (n - 1,).
    """
    known = [time for time in times if time is not None]
    if len(known) < len(times) or len(times) < 2:
        return np.zeros(max(len(times) - 1, 0), bool)
    intervals = np.diff(known)
    usual = np.median(intervals)
    return np.abs(intervals - usual) > usual / 2


def sharpness(frame: np.ndarray) -> float:
    """Return the variance of the Laplacian of a frame, uint8 (h, w, 3), downscaled to 240 rows."""
    return float(cv2.Laplacian(small_grey(frame, SHARPNESS_HEIGHT), cv2.CV_32F).var())


def find_soft(sharpness: np.ndarray, cut: np.ndarray, max_softness: float) -> np.ndarray:
    """Return which frames are softer than their neighbours in the same shot.

    A frame is compared with the median of up to 8 frames on either side. The number is the same on
    both sides, so that a picture whose detail steadily increases or decreases, as in a pan, has no
    soft frames. For the first two and the last two frames of a shot, two frames on the inner side
    are used.

    Args:
        sharpness: (n,) sharpness of each frame.
        cut: (n - 1,) whether neighbouring frames belong to different shots.
        max_softness: A frame is soft if its sharpness is below the median by more than this
            fraction of the median; 1 finds none.

    Returns:
        bool (n,).
    """
    soft = np.zeros(len(sharpness), bool)
    if max_softness >= 1:
        return soft
    for shot in np.split(np.arange(len(sharpness)), np.flatnonzero(cut) + 1):
        for k, i in enumerate(shot):
            reach = np.clip(min(k, len(shot) - 1 - k), 2, NEIGHBOURS)
            near = [j for j in shot[max(0, k - reach) : k + reach + 1] if j != i]
            if near:
                soft[i] = sharpness[i] < (1 - max_softness) * np.median(sharpness[near])
    return soft
