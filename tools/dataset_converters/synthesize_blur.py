"""Make blurry-sharp training pairs in GoPro's layout from sharp videos or folders of frames.

By default sub-frames interpolated by optical flow are averaged in linear light, the way the DVD set
was made; --window averages neighbouring frames of a high-speed video, the way GoPro was made. The
middle frame is the ground truth. Scene cuts divide a source into clips, written as
OUT_DIR/<split>/<clip>/{blur,sharp}/NNNNNN.png. --variants makes several different clips of every
shot. To resume a run that was stopped, run the same command again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cv2

from dblrgan_mm import files, launch
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.convert import convert
from dblrgan_mm.synthesis.plan import Recipe
from dblrgan_mm.synthesis.workers import Workers

MAX_SOFTNESS = 0.15  # with --variants


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
    add('--height', type=int, nargs='+', default=[0], dest='heights', metavar='H',
        help='height to shrink to in pixels (default, and 0: as it is); of several, one is drawn '
        "per clip, up to 2/3 of the source's height where there is such a one")  # fmt: skip
    add('--start', type=int, default=0, help='first source frame, counted from 0')
    add('--count', type=int, default=0,
        help='pairs at most, of a SOURCE (of each of its variants); no more of it is read than '
        'they take (all)')  # fmt: skip
    add('--variants', type=int, default=1, metavar='N',
        help='make N clips of every shot, <clip>_v0 to _v<N-1>, of --max-pairs at most; start, '
        'stride, height, exposure, lights are drawn for each (1: the whole shot once)')  # fmt: skip
    add('--min-pairs', type=int, default=5, help='a shorter shot is left out (5)')
    add('--max-pairs', type=int, default=100, help='a longer shot becomes several clips (100)')
    add('--first-number', type=int, default=47, help='number of a first pair on disk (47)')
    add('--stride', type=stride, default='auto', metavar='N',
        help='source frames per blurry frame; auto (default): the least that gives '
        '--motion, with --window its MAX; with --variants drawn between half of and the largest '
        'that does not exceed --motion')  # fmt: skip
    add('--max-stride', type=int, metavar='N',
        help='the largest stride that auto chooses (4; with --variants 8; more for high-speed '
        'video)')  # fmt: skip
    add('--motion', type=float, metavar='PART',
        help='motion between blurry frames that --stride auto aims at, in picture heights: the '
        "shot's median of a picture's 90th percentile (0.03; REDS has 0.027 to 0.06); with "
        '--variants its upper bound (0.1; twice that for the 99th percentile)')  # fmt: skip
    add('--max-softness', type=float, metavar='PART',
        help='a source frame is no ground truth if its sharpness is lower by more than PART than '
        f'that of its neighbours (1: off; with --variants {MAX_SOFTNESS})')  # fmt: skip
    exposure = parser.add_mutually_exclusive_group()
    exposure.add_argument('--shutter', type=float, nargs=2, default=(0.3, 1.0),
        metavar=('MIN', 'MAX'),
        help='exposure in intervals of the blurry clip, drawn once per clip (0.3 1.0)')  # fmt: skip
    exposure.add_argument('--window', type=int, nargs=2, metavar=('MIN', 'MAX'),
        help='average an odd number of source frames, drawn once per clip: for some 200 frames '
        'per second and more')  # fmt: skip
    add('--hand', type=float, default=0, metavar='SHARE',
        help='share of the clips whose exposure changes from frame to frame, as in a moving hand, '
        'between 0.05 and 1 interval (0)')  # fmt: skip
    add('--lights', type=float, nargs=2, default=(1, 1), metavar=('MIN', 'MAX'),
        help='how many times brighter than white clipped pixels are taken to be before averaging, '
        'drawn once per clip (1 1: not brighter)')  # fmt: skip
    add('--sub-frames', type=int, default=8,
        help='sub-frames per source interval (8; of slow variants fewer)')  # fmt: skip
    add('--light', choices=('linear', 'gamma', 'encoded'), default='linear',
        help="average sRGB's linear light, that of a power of 2.2 (GoPro's blur_gamma), or stored "
        "values (GoPro's blur)")  # fmt: skip
    add('--seed', type=int, default=0, help="with a clip's name, the seed of its exposure (0)")
    add('--workers', type=int, default=os.cpu_count(), metavar='N',
        help='threads (default: one a processor)')  # fmt: skip
    args = parser.parse_args(argv)
    if args.max_stride is None:
        args.max_stride = 8 if args.variants > 1 else 4
    if args.motion is None:
        args.motion = 0.1 if args.variants > 1 else 0.03
    if args.max_softness is None:
        args.max_softness = MAX_SOFTNESS if args.variants > 1 else 1.0
    for name in ('sub_frames', 'min_pairs', 'max_pairs', 'max_stride', 'variants', 'workers'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} must be at least 1')
    for name in ('start', 'count', 'first_number', 'seed', 'motion'):
        if getattr(args, name) < 0:
            parser.error(f'--{name.replace("_", "-")} must not be negative')
    if min(args.heights) < 0:
        parser.error('--height must not be negative')
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
    if not 0 < args.max_softness <= 1:
        parser.error(f'--max-softness {args.max_softness:g}: need a part above 0, up to 1')
    if not 0 <= args.hand <= 1:
        parser.error(f'--hand {args.hand:g}: need a share from 0 to 1')
    if args.hand and args.window:
        parser.error('--hand changes the --shutter; it does not go with --window')
    low, high = args.lights
    if not 1 <= low <= high < float('inf'):
        parser.error(f'--lights {low:g} {high:g}: need 1 <= MIN <= MAX')
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
    args = vars(parse_args(argv))
    sources, workers = args.pop('sources'), args.pop('workers')
    recipe = Recipe(**args)
    cv2.setNumThreads(1)  # the flow depends on it; the threads here take its place
    try:
        with (
            files.sole_writer(recipe.out_dir),
            files.disk_full_told(recipe.out_dir),
            Workers(workers) as pool,
        ):
            try:
                convert(sources, recipe, pool)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        raise UserError('stopped; to resume, run the same command again') from None


if __name__ == '__main__':
    launch.run(main)
