"""Make blurry-sharp training pairs in GoPro's layout from any sharp video.

Blur is made the way the DVD set was made: sub-frames interpolated by optical flow are averaged in
linear light, and the middle frame is the ground truth. Written as
OUT_DIR/<split>/<clip>/{blur,sharp}/NNNNNN.png.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

IMAGE_SUFFIXES = {'.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff'}


def srgb_to_linear(frame: np.ndarray) -> np.ndarray:
    """Decode sRGB, uint8 of any shape, to float32 linear light in [0, 1]."""
    code = np.arange(256) / 255
    linear = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)[frame]


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Encode float linear light of any shape, clipped to [0, 1], as sRGB, uint8."""
    linear = np.clip(linear, 0, 1)
    code = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * code).astype(np.uint8)


def decode(source: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, or of a folder in numerical order: uint8 (h, w, 3), BGR."""
    if source.is_dir():
        paths = [path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        if not paths:
            raise ValueError('no images in this folder; give the folder that holds the frames')
        for path in sorted(paths, key=lambda p: ([int(n) for n in re.findall(r'\d+', p.stem)], p)):
            frame = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if frame is None:
                raise ValueError(f'{path.name} is no readable image; replace or remove it')
            yield frame
        return
    import av  # folders do without it

    try:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format='bgr24')
    except (av.FFmpegError, IndexError):  # IndexError: no video stream
        raise ValueError('not a readable video; give a video or a folder of images') from None


def shrink(frame: np.ndarray, height: int) -> np.ndarray:
    """Shrink a frame (h, w, 3) to `height` pixels by area averaging; even width, same aspect."""
    h, w = frame.shape[:2]
    if h < height:
        raise ValueError(f'frames of {w}x{h} are smaller than --height {height}; lower it')
    size = (2 * round(w * height / h / 2), height)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def warp(image: np.ndarray, flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fetch an image (h, w[, c]) at x + flow, (h, w, 2) in pixels; and where that is inside it."""
    h, w = flow.shape[:2]
    where = np.float32(flow + np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=2))
    inside = np.all((where >= 0) & (where <= (w - 1, h - 1)), axis=2)
    fetched = cv2.remap(image, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return fetched, inside


def estimate_flows(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Estimate dense optical flow both ways between two frames, uint8 (h, w, 3), BGR.

    Returns:
        Flows first-to-second and second-to-first, float32 (h, w, 2), x and y in pixels; None where
        the warped second frame is so unlike the first that a scene cut lies between them.
    """
    grays = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in (first, second)]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the flow depends on the number of threads
    forth, back = dis.calc(*grays, None), dis.calc(*grays[::-1], None)
    cv2.setNumThreads(threads)
    seen, found = np.float32(grays[0]), warp(np.float32(grays[1]), forth)[0]
    # 25 allows for noise of 5 grey levels. The rest is a share of both variances (one minus the
    # correlation): at most 0.13 in 1997 pairs of 27 real clips, at least 0.26 at 351 made cuts.
    is_cut = np.var(seen - found) > 25 + 0.2 * (np.var(seen) + np.var(found))
    return None if is_cut else (forth, back)


def interpolate(
    first: np.ndarray, second: np.ndarray, flows: tuple[np.ndarray, np.ndarray], time: float
) -> np.ndarray:
    """Interpolate at time in [0, 1] between two frames, float32 (h, w, 3) in linear light.

    Both are warped to that time (Jiang et al. 2018, Super SloMo, equation 4) and blended by their
    distance in time; where one would be fetched from outside the picture, the other stands alone.
    """
    forth, back = flows
    first, first_inside = warp(first, time * (time * back - (1 - time) * forth))
    second, second_inside = warp(second, (1 - time) * ((1 - time) * forth - time * back))
    first_weight = (1 - time) * (first_inside + 1e-3)
    share = first_weight / (first_weight + time * (second_inside + 1e-3))
    return second + share[..., None].astype(np.float32) * (first - second)


def synthesize_clip(
    frames: Sequence[np.ndarray], stride: int, shutter: float, sub_frames: int = 8, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Make the pairs of one clip (ours, after the way the DVD set was made).

    The blurry clip keeps every `stride`-th frame. Its exposures are centred on these and last
    `shutter` of the interval between them: no streak is longer than the motion between frames.

    Args:
        frames: Consecutive sharp frames, uint8 (h, w, 3), BGR.
        stride: Intervals of `frames` in one interval of the blurry clip.
        shutter: Exposure in intervals of the blurry clip, in (0, 1].
        sub_frames: Sub-frames averaged per interval of `frames`, about.
        start: Number of frames[0] in its source, for messages.

    Yields:
        Blurry and sharp frame like `frames`; pair i shows frames[(stride + 1) // 2 + i * stride].

    Raises:
        ValueError: The shutter is outside (0, 1], or a scene cut lies in the clip.
    """
    if not 0 < shutter <= 1:
        raise ValueError(f'shutter {shutter:g} is outside (0, 1]; give a part of one interval')
    reach = (stride + 1) // 2
    samples = int(shutter * stride * sub_frames) // 2 * 2 + 1  # odd: the sharp frame is in it
    offsets = shutter * stride * ((np.arange(samples) + 0.5) / samples - 0.5)
    flows = {}
    for centre in range(reach, len(frames) - reach, stride):
        window = range(centre - reach, centre + reach)
        flows = {i: flows.get(i) or estimate_flows(*frames[i : i + 2]) for i in window}
        for i in window:
            if flows[i] is None:
                raise ValueError(
                    f'scene cut (or motion too fast to follow) between frames {start + i} and '
                    f'{start + i + 1}; stay on one side of it with --start and --count'
                )
        total = np.zeros(frames[centre].shape, np.float32)
        for offset in offsets:
            i = centre + math.floor(offset)
            first, second = map(srgb_to_linear, frames[i : i + 2])
            total += interpolate(first, second, flows[i], centre + offset - i)
        yield linear_to_srgb(total / samples), frames[centre]


def write_clip(pairs: Iterable[tuple[np.ndarray, np.ndarray]], folder: Path, number: int) -> float:
    """Write folder/{blur,sharp}/NNNNNN.png from `number` on: all pairs, or nothing on an error.

    Returns:
        Mean PSNR of the blurry frames in dB.
    """
    part = folder.parents[1] / f'.{folder.parent.name}-{folder.name}.partial'
    shutil.rmtree(part, ignore_errors=True)
    psnrs = []
    try:
        for kind in ('blur', 'sharp'):
            (part / kind).mkdir(parents=True)
        for blur, sharp in pairs:
            for kind, image in (('blur', blur), ('sharp', sharp)):
                path = part / kind / f'{number + len(psnrs):06d}.png'
                if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 9]):
                    raise OSError(f'{path}: could not be written; is the disk full?')
            psnrs.append(cv2.PSNR(blur, sharp))
        folder.mkdir(parents=True, exist_ok=True)
        folder.rmdir()  # only an empty folder makes way
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return float(np.mean(psnrs))


def convert(source: Path, folder: Path, args: argparse.Namespace) -> str:
    """Make the clip `folder` from one source; return a line that says what was made."""
    reach = (args.stride + 1) // 2
    needed = 2 * reach + 1 + args.stride * ((args.count or 1) - 1)
    stop = args.start + needed if args.count else None
    frames = [shrink(frame, args.height) for frame in islice(decode(source), args.start, stop)]
    if len(frames) < needed:
        raise ValueError(
            f'{len(frames)} frames from --start {args.start} on, but {args.count or 1} pairs at '
            f'--stride {args.stride} need {needed}; lower one of them'
        )
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError('frames differ in size; give a folder with one clip')
    rng = np.random.default_rng([args.seed, zlib.crc32(folder.name.encode())])
    shutter = rng.uniform(*args.shutter)
    count = (len(frames) - 1 - 2 * reach) // args.stride + 1
    pairs = synthesize_clip(frames, args.stride, shutter, args.sub_frames, args.start)
    psnr = write_clip(tqdm(pairs, folder.name, count), folder, args.first_number)
    h, w = frames[0].shape[:2]
    return f'{count} pairs {w}x{h}, shutter {shutter:.2f}, input PSNR {psnr:.2f} dB'


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and refuse numbers that cannot be right."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add('out_dir', type=Path, metavar='OUT_DIR', help='root of the data set to write to')
    add('sources', type=Path, nargs='+', metavar='SOURCE', help='video file or folder of frames')
    add('--split', default='train', help='folder in OUT_DIR (default: train)')
    add('--height', type=int, default=144, help='height to shrink to in pixels (144)')
    add('--start', type=int, default=0, help='first source frame, counted from 0')
    add('--count', type=int, default=0, help='pairs in the clip (0: all)')
    add('--stride', type=int, default=1, help='source frames per blurry frame (1)')
    shutter = 'range of the exposure in frame intervals, drawn once per clip (0.3 1.0)'
    add('--shutter', type=float, nargs=2, default=(0.3, 1.0), metavar='PART', help=shutter)
    add('--sub-frames', type=int, default=8, help='sub-frames per source interval (8)')
    add('--first-number', type=int, default=47, help='number of the first pair on disk (47)')
    add('--name', help='name of the clip (default: that of the SOURCE)')
    add('--seed', type=int, default=0, help='seed of the shutter, together with the name (0)')
    args = parser.parse_args(argv)
    if min(args.height, args.stride, args.sub_frames) < 1:
        parser.error('--height, --stride and --sub-frames must be at least 1')
    if min(args.start, args.count, args.first_number, args.seed) < 0:
        parser.error('--start, --count, --first-number and --seed must not be negative')
    low, high = args.shutter
    if not 0 < low <= high <= 1:
        parser.error(f'--shutter {low:g} {high:g}: need 0 < MIN <= MAX <= 1, in frame intervals')
    if args.name and len(args.sources) > 1:
        parser.error('--name is for a single SOURCE; leave it out or run once per source')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Make one clip per source; end with one line on the first error."""
    args = parse_args(argv)
    folders = [args.out_dir / args.split / (args.name or source.stem) for source in args.sources]
    for source, folder in zip(args.sources, folders, strict=True):
        if not source.exists():
            sys.exit(f'error: {source}: no such file or folder; check the path')
        if folder.is_dir() and any(folder.iterdir()):
            sys.exit(f'error: {folder}: exists and is not empty; remove it or choose --name')
        if folders.count(folder) > 1:
            sys.exit(
                f'error: {folder}: two sources have this name; run once per source with --name'
            )
    for source, folder in zip(args.sources, folders, strict=True):
        try:
            print(f'{folder}: {convert(source, folder, args)}')
        except (ValueError, OSError) as error:
            sys.exit(f'error: {source}: {error}')


if __name__ == '__main__':
    main()
