"""Make blurry-sharp training pairs in GoPro's layout from sharp videos or folders of frames.

By default sub-frames interpolated by optical flow are averaged in linear light, the way the DVD set
was made; --window averages neighbouring frames of a high-speed video, the way GoPro was made. The
middle frame is the ground truth. Scene cuts divide a source into clips, written as
OUT_DIR/<split>/<clip>/{blur,sharp}/NNNNNN.png. A run that was stopped goes on where it stopped when
it is run again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import os
import shutil
import sys
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dblrgan_mm import __version__, files, launch
from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.clips.motion_blur import (
    Flows,
    blur_by_average,
    blur_by_flow,
    estimate_flow,
    estimate_flows,
    sub_frame_times,
    warp,
)
from dblrgan_mm.clips.sources import decode, expand
from dblrgan_mm.errors import UserError

SCAN_HEIGHT = 96  # rows; motion and cuts are looked for in frames shrunk to it
SLOWEST = 4  # the largest stride that --stride auto chooses
SETTINGS = 'synthesis.json'  # beside blur/ and sharp/


def output_size(w: int, h: int, height: int) -> tuple[int, int]:
    """Width and height of the pairs: those of the frames for 0, else even width and same aspect."""
    return (w, h) if height in (0, h) else (2 * round(w * height / h / 2), height)


def shrink(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink a frame (h, w, 3) to a width and height by area averaging."""
    same = frame.shape[1::-1] == size
    return frame if same else cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


class Workers(ThreadPoolExecutor):
    """Threads; they begin jobs in the order in which these were handed in."""

    def in_order(self, jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
        """Yield what jobs return, in their order; only a few are taken ahead."""
        waiting = deque()
        for job in jobs:
            waiting.append(self.submit(job))
            if len(waiting) > 2 * self._max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass
class Scan:
    """What the first pass finds in a range of n frames.

    Attributes:
        frames: n.
        size: width and height.
        motion: (n - 1,) between neighbours, 90th percentile over the picture, in its heights.
        cut: (n - 1,) whether neighbours belong to different shots.
    """

    frames: int
    size: tuple[int, int]
    motion: np.ndarray
    cut: np.ndarray


def scan(source: Path, start: int, stop: int | None, height: int, pool: Workers) -> Scan:
    """Look through the frames from `start` to before `stop`."""
    from tqdm import tqdm

    times, sizes = [], []

    def comparisons() -> Iterator[Callable[[], tuple[float, bool]]]:
        before = None
        frames = itertools.islice(decode(source), start, stop)
        for time, load in tqdm(frames, f'scan {source.name}', unit='frame', leave=False):
            frame = load()
            h, w = frame.shape[:2]
            times.append(time)
            sizes.append((w, h))
            if sizes[0] != (w, h):
                raise UserError(
                    f'{source}: frame {start + len(sizes) - 1} has {w}x{h} pixels, the first one '
                    '{}x{}; give frames of one size'.format(*sizes[0])
                )
            if h < height:
                raise UserError(f'{source}: {w}x{h} pixels, fewer than --height {height}; lower it')
            small = shrink(frame, output_size(w, h, min(h, SCAN_HEIGHT)))
            small = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
            if before is not None:
                yield functools.partial(compare, before, small)
            before = small

    found = np.array([*pool.in_order(comparisons())]).reshape(-1, 2)
    size = sizes[0] if sizes else (0, 0)
    return Scan(len(sizes), size, found[:, 0], (found[:, 1] > 0) | is_gap(times))


def compare(first: np.ndarray, second: np.ndarray) -> tuple[float, bool]:
    """Motion between small grey frames, uint8 (h, w), as in `Scan`; whether a cut lies there."""
    flow = estimate_flow(first, second)
    seen, found = np.float32(first), warp(np.float32(second), flow)[0]
    # 25 allows for noise of 5 grey levels. The rest is a share of both variances (one minus the
    # correlation): at most 0.15 in 1414 pairs of 28 real clips, at least 0.26 at 756 made cuts.
    is_cut = np.var(seen - found) > 25 + 0.2 * (np.var(seen) + np.var(found))
    return np.percentile(np.linalg.norm(flow, axis=2), 90) / len(first), bool(is_cut)


def is_gap(times: Sequence[float | None]) -> np.ndarray:
    """Whether the intervals between n times, in seconds, differ from the usual by more than half.

    Returns:
        bool (n - 1,).
    """
    if None in times or len(times) < 2:
        return np.zeros(max(len(times) - 1, 0), bool)
    intervals = np.diff(times)
    usual = np.median(intervals)
    return np.abs(intervals - usual) > usual / 2


@dataclass
class Clip:
    """A clip to make.

    Attributes:
        folder: OUT_DIR/<split>/<clip>.
        settings: all that its files depend on; kept in the folder.
    """

    source: Path
    folder: Path
    settings: dict[str, Any]

    @property
    def partial(self) -> Path:
        """The folder in which it is made."""
        return self.folder.parents[1] / f'.{self.folder.parent.name}-{self.folder.name}.partial'

    def paths(self, n: int) -> list[Path]:
        """Where the blurry and the sharp frame of pair n are made."""
        name = f'{self.settings["first_number"] + n:06d}.png'
        return [self.partial / kind / name for kind in ('blur', 'sharp')]

    def is_finished(self) -> bool:
        """Whether it is there already; a UserError if something else is."""
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return False
        there = read_settings(self.folder)
        if there is None:
            raise UserError(
                f'{self.folder}: is there, but was not made by this tool; remove it or choose '
                'another --name'
            )
        both = there, self.settings
        for key in dict.fromkeys((*there, *self.settings)):
            old, new = (f'{key} {each[key]}' if key in each else f'no {key}' for each in both)
            if old != new and key not in ('input_psnr', 'version'):
                raise UserError(
                    f'{self.folder}: was made with {old}, this command asks for {new}; give the '
                    'same settings, remove the clip, or choose another --name'
                )
        return True


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that a clip was made with; None where they are missing."""
    try:
        return json.loads((folder / SETTINGS).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def plan(
    source: Path, args: argparse.Namespace, pool: Workers, taken: dict[Path, Path]
) -> tuple[list[Clip], int]:
    """Divide a source into clips; `taken` says which source makes a folder.

    Returns:
        The clips, and the number of shots that are too short for one.
    """

    def reach(stride: int) -> int:  # frames that an exposure may need on either side of its middle
        return args.window[1] // 2 if args.window else (stride + 1) // 2

    def needed(pairs: int, stride: int) -> int:
        return 2 * reach(stride) + 1 + stride * (pairs - 1)

    def pairs_in(frames: int, stride: int) -> int:
        return (frames - 1 - 2 * reach(stride)) // stride + 1

    largest = SLOWEST if args.stride == 'auto' else args.stride
    least = min(args.min_pairs, args.count or args.min_pairs)
    stop = args.start + needed(args.count, largest) if args.count else None
    found = scan(source, args.start, stop, args.height, pool)
    shots = list(itertools.pairwise([0, *(np.flatnonzero(found.cut) + 1).tolist(), found.frames]))
    parts, short, left = [], 0, args.count or found.frames
    for first, end in shots:
        stride = args.stride
        if stride == 'auto':
            motion = np.median(found.motion[first : end - 1]) if end - first > 1 else 0
            # a short shot is thinned less, so that it still gives its pairs
            fit = [s for s in range(1, SLOWEST + 1) if pairs_in(end - first, s) >= least] or [1]
            stride = next((s for s in fit if s * motion >= args.motion), fit[-1])
        pairs = pairs_in(end - first, stride)
        short += pairs < least
        for k in range(0, pairs, args.max_pairs):
            size = min(args.max_pairs, pairs - k, left)
            if size >= least:
                parts.append((args.start + first + reach(stride) + k * stride, stride, size))
                left -= size
    if not parts:
        raise UserError(
            f'{source}: too short: {found.frames} frames from --start {args.start} on, at most '
            f'{max(end - first for first, end in shots)} between two cuts, but {least} pairs take '
            f'{needed(least, stride)} at a stride of {stride}; lower '
            '--min-pairs, --stride or --start'
        )

    here = Path(os.path.abspath(source))
    stem = args.name or (here.name if here.is_dir() else here.stem)
    w, h = output_size(*found.size, args.height)
    clips = []
    for k, (first, stride, pairs) in enumerate(parts):
        name = stem if len(parts) == 1 else f'{stem}_{k:03d}'
        rng = np.random.default_rng([args.seed, zlib.crc32(name.encode())])
        if args.window:
            low, high = args.window
            exposure = dict(window=low + 2 * int(rng.integers((high - low) // 2 + 1)))
        else:
            shutter = round(rng.uniform(*args.shutter), 4)
            exposure = dict(shutter=shutter, sub_frames=args.sub_frames)
        settings = dict(source=here.name, seed=args.seed, light=args.light) | exposure
        settings |= dict(stride=stride, height=h, width=w, first_number=args.first_number)
        settings |= dict(first_frame=first, pairs=pairs)
        clips.append(Clip(source, args.out_dir / args.split / name, settings))
    for clip in clips:
        if clip.folder in taken:
            raise UserError(
                f'{source}: its clip {clip.folder.name} has the name of one of '
                f'{taken[clip.folder]}; run once per source, with --name'
            )
    taken.update((clip.folder, source) for clip in clips)
    return clips, short


class Frames:
    """Reads a source once from front to end, and holds no frames before those last asked for."""

    def __init__(self, source: Path, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        self._coming = enumerate(decode(source))
        self._held = {}

    def between(self, first: int, last: int) -> list[np.ndarray]:
        """Frames `first` to `last`, uint8 (h, w, 3), BGR."""
        self._held = {i: frame for i, frame in self._held.items() if i >= first}
        while last not in self._held:
            i, (_, load) = next(self._coming, (None, (None, None)))
            if load is None:
                raise UserError(f'{self.source}: became shorter meanwhile; run the command again')
            if i >= first:
                self._held[i] = shrink(load(), self.size)
        return [self._held[i] for i in range(first, last + 1)]


def pair_jobs(
    settings: dict[str, Any], frames: Frames, done: int, pool: Workers
) -> Iterator[Callable[[], tuple[bytes, bytes, float]]]:
    """Yield functions that make the pairs of a clip from pair number `done` on."""
    if 'window' in settings:
        times = None
        before = after = settings['window'] // 2
    else:
        times = sub_frame_times(settings['stride'], settings['shutter'], settings['sub_frames'])
        before, after = -math.floor(times[0]), math.floor(times[-1]) + 1
        times += before
    flows = {}
    for n in range(done, settings['pairs']):
        first = settings['first_frame'] + n * settings['stride'] - before
        images = frames.between(first, first + before + after)
        if times is not None:  # handed in before their pair, which waits for them in a thread
            flows = {
                first + i: flows.get(first + i) or pool.submit(estimate_flows, *images[i : i + 2])
                for i in range(before + after)
            }
        yield functools.partial(
            make_pair, images, before, list(flows.values()), times, settings['light']
        )


def make_pair(
    images: list[np.ndarray],
    middle: int,
    flows: list[Future[Flows]],
    times: np.ndarray | None,
    light: str,
) -> tuple[bytes, bytes, float]:
    """Make the blurry and the sharp frame, as PNG; and the PSNR between them in dB."""
    if times is None:
        blur = blur_by_average(images, light)
    else:
        blur = blur_by_flow(images, [flow.result() for flow in flows], times, light)
    sharp = images[middle]
    level = [cv2.IMWRITE_PNG_COMPRESSION, 3]  # 9 takes 4 to 15 times as long for 2 to 10 % less
    blur_png, sharp_png = (cv2.imencode('.png', image, level)[1] for image in (blur, sharp))
    return blur_png.tobytes(), sharp_png.tobytes(), cv2.PSNR(blur, sharp)


def write(path: Path, content: bytes) -> None:
    """Write a file that is never there in part."""
    part = path.with_name(path.name + '.part')
    part.write_bytes(content)
    part.replace(path)


def keep_whole_pairs(clip: Clip) -> list[float]:
    """Open a clip's partial folder; keep the whole pairs in it but for the last one.

    Returns:
        The kept pairs' PSNR in dB.
    """
    there = read_settings(clip.partial) or {}
    if not clip.settings.items() <= there.items():
        shutil.rmtree(clip.partial, ignore_errors=True)
        for kind in ('blur', 'sharp'):
            (clip.partial / kind).mkdir(parents=True)
        write(clip.partial / SETTINGS, json.dumps(clip.settings).encode())
    psnrs = []
    for n in range(clip.settings['pairs']):
        try:
            pair = (read_frame(path, 'bgr') for path in clip.paths(n))
            psnrs.append(cv2.PSNR(*pair))
        except ValueError:
            break
    psnrs = psnrs[:-1]
    kept = {path for n in range(len(psnrs)) for path in clip.paths(n)}
    for path in {*clip.partial.glob('*/*')} - kept:
        path.unlink()
    return psnrs


def make_clip(clip: Clip, frames: Frames, pool: Workers, bar: Any) -> None:
    """Make what a clip's partial folder lacks, and put it in its place."""
    from tqdm import tqdm

    psnrs = keep_whole_pairs(clip)
    bar.update(len(psnrs))
    results = pool.in_order(pair_jobs(clip.settings, frames, len(psnrs), pool))
    for n, (*images, psnr) in enumerate(results, len(psnrs)):
        for path, image in zip(clip.paths(n), images, strict=True):
            write(path, image)
        psnrs.append(psnr)
        bar.update()
    told = clip.settings | dict(input_psnr=round(float(np.mean(psnrs)), 2), version=__version__)
    write(clip.partial / SETTINGS, json.dumps(told, indent=2).encode())
    clip.folder.mkdir(parents=True, exist_ok=True)
    clip.folder.rmdir()  # only an empty folder makes way
    clip.partial.rename(clip.folder)
    exposure = next(f'{key} {told[key]}' for key in ('shutter', 'window') if key in told)
    tqdm.write(
        f'{clip.folder}: {told["pairs"]} pairs {told["width"]}x{told["height"]}, stride '
        f'{told["stride"]}, {exposure}, input PSNR {told["input_psnr"]} dB'
    )


def convert(args: argparse.Namespace, pool: Workers) -> None:
    """Plan all sources, then make their clips; a source that fails does not stop the others."""
    from tqdm import tqdm

    errors, counts, taken = [], Counter(), {}
    total = len(args.sources)

    def attempt(step: Callable, *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except UserError as error:
            errors.append(error)
            if total > 1:
                tqdm.write(f'error: {error}', file=sys.stderr)

    def prepare(source: Path) -> list[Clip]:
        clips, short = plan(source, args, pool, taken)
        todo = [clip for clip in clips if not clip.is_finished()]
        counts.update(short=short, there=len(clips) - len(todo))
        return todo

    def make(clips: list[Clip]) -> None:
        settings = clips[0].settings
        frames = Frames(clips[0].source, (settings['width'], settings['height']))
        for clip in clips:
            try:
                make_clip(clip, frames, pool, bar)
                counts.update(made=1)
            except UserError:
                shutil.rmtree(clip.partial, ignore_errors=True)
                raise

    sources = [source for given in args.sources for source in attempt(expand, given) or ()]
    total = len(sources) + len(errors)
    if args.name and total > 1:
        raise UserError(f'--name is for one source, and there are {total}; leave it out')
    todo = [clips for clips in (attempt(prepare, source) for source in sources) if clips]
    settings = [clip.settings for clips in todo for clip in clips]
    pixels = sum(s['pairs'] * s['width'] * s['height'] for s in settings)
    files.require_space(args.out_dir, int(2 * 3 * pixels * 0.7))  # PNG keeps 0.3 to 0.7 of it
    with tqdm(total=sum(s['pairs'] for s in settings), unit='pair') as bar:
        for clips in todo:
            attempt(make, clips)
    if errors and total == 1:
        raise errors[0]
    print(
        f'{counts["made"]} clips made, {counts["there"]} were there, {counts["short"]} shots were '
        'too short'
    )
    if errors:
        raise UserError(f'{len(errors)} of {total} sources failed, as told above')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and refuse numbers that cannot be right."""

    def stride(text: str) -> int | str:
        return text if text == 'auto' else int(text)

    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('out_dir', type=Path, metavar='OUT_DIR', help='root of the data set to write to')
    add('sources', type=Path, nargs='+', metavar='SOURCE',
        help='video, folder of frames, or folder of either')  # fmt: skip
    add('--split', default='train', help='folder in OUT_DIR (default: train)')
    add('--name', help='name of the clip (default: that of the SOURCE)')
    add('--height', type=int, default=0, help='height to shrink to in pixels (default: as it is)')
    add('--start', type=int, default=0, help='first source frame, counted from 0')
    add('--count', type=int, default=0,
        help='pairs at most, of a SOURCE; no more of it is read than they take (all)')  # fmt: skip
    add('--min-pairs', type=int, default=5, help='a shorter shot is left out (5)')
    add('--max-pairs', type=int, default=100, help='a longer shot becomes several clips (100)')
    add('--first-number', type=int, default=47, help='number of a first pair on disk (47)')
    add('--stride', type=stride, default='auto', metavar='N',
        help='source frames per blurry frame; auto (default): the least up to 4 that gives '
        '--motion, with --window its MAX')  # fmt: skip
    add('--motion', type=float, default=0.03, metavar='PART',
        help='motion between blurry frames that --stride auto aims at, in picture heights: the '
        "shot's median of a picture's 90th percentile (0.03; REDS has 0.027 to 0.06)")  # fmt: skip
    exposure = parser.add_mutually_exclusive_group()
    exposure.add_argument('--shutter', type=float, nargs=2, default=(0.3, 1.0),
        metavar=('MIN', 'MAX'),
        help='exposure in intervals of the blurry clip, drawn once per clip (0.3 1.0)')  # fmt: skip
    exposure.add_argument('--window', type=int, nargs=2, metavar=('MIN', 'MAX'),
        help='average an odd number of source frames, drawn once per clip: for some 200 frames '
        'per second and more')  # fmt: skip
    add('--sub-frames', type=int, default=8, help='sub-frames per source interval (8)')
    add('--light', choices=('linear', 'gamma', 'encoded'), default='linear',
        help="average sRGB's linear light, that of a power of 2.2 (GoPro's blur_gamma), or stored "
        "values (GoPro's blur)")  # fmt: skip
    add('--seed', type=int, default=0, help="with a clip's name, the seed of its exposure (0)")
    add('--workers', type=int, default=os.cpu_count(), metavar='N',
        help='threads (default: one a processor)')  # fmt: skip
    args = parser.parse_args(argv)
    for name in ('sub_frames', 'min_pairs', 'max_pairs', 'workers'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    for name in ('height', 'start', 'count', 'first_number', 'seed', 'motion'):
        if getattr(args, name) < 0:
            parser.error(f'--{name.replace("_", "-")} must not be negative')
    for name in ('split', 'name'):
        value = getattr(args, name)
        if value is not None and (Path(value).name != value or value[:1] in ('', '.')):
            parser.error(f'--{name} {value}: give a plain name, not a path')
    if args.min_pairs > args.max_pairs:
        parser.error('--min-pairs must not be above --max-pairs')
    no_camera = 'an exposure longer than the interval between frames exists in no camera'
    low, high = args.shutter
    if not 0 < low <= high <= 1:
        parser.error(f'--shutter {low:g} {high:g}: need 0 < MIN <= MAX <= 1; {no_camera}')
    if args.window:
        low, high = args.window
        if not 1 <= low <= high or low % 2 == 0 or high % 2 == 0:
            parser.error(f'--window {low} {high}: need odd numbers, 1 <= MIN <= MAX')
        if args.stride == 'auto':
            args.stride = high
        if args.stride < high:
            parser.error(f'--stride {args.stride} is below the --window of {high}: {no_camera}')
    if args.stride != 'auto' and args.stride < 1:
        parser.error('--stride must be at least 1')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cv2.setNumThreads(1)  # the flow depends on it; the threads here take its place
    try:
        with (
            files.sole_writer(args.out_dir),
            files.disk_full_told(args.out_dir),
            Workers(args.workers) as pool,
        ):
            try:
                convert(args, pool)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        raise UserError('stopped; the same command goes on where this one was') from None


if __name__ == '__main__':
    launch.run(main)
