"""Make blurry-sharp training pairs in GoPro's layout from sharp videos or folders of frames.

By default, sub-frames interpolated by optical flow are averaged in linear light, as for the DVD
data set. --window averages neighbouring frames of a high-speed video, as for GoPro. The middle
frame is the ground truth. Scene cuts divide a source into clips, written as
OUT_DIR/<split>/<clip>/{blur,sharp}/NNNNNN.png. --variants makes several different clips from every
shot. To resume an interrupted run, run the same command again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cv2

from dblrgan_mm import files
from dblrgan_mm.errors import UserError
from dblrgan_mm.synthesis.convert import convert
from dblrgan_mm.synthesis.plan import Recipe
from dblrgan_mm.synthesis.workers import Workers

MAX_SOFTNESS = 0.15  # default with --variants


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line, and reject invalid numbers."""

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
        help='height in pixels to downscale to (default: 0, unchanged); if several are given, one '
        "is drawn per clip, if possible at most 2/3 of the source's height")  # fmt: skip
    add('--start', type=int, default=0, help='first source frame, counted from 0 (default: 0)')
    add('--count', type=int, default=0,
        help='maximum number of pairs per SOURCE (with --variants, per variant); the rest of the '
        'SOURCE is not read (default: all)')  # fmt: skip
    add('--variants', type=int, default=1, metavar='N',
        help='make N clips from every shot, <clip>_v0 to _v<N-1>, of at most --max-pairs pairs; '
        'start, stride, height, exposure and lights are drawn for each (default: 1, the whole '
        'shot once)')  # fmt: skip
    add('--min-pairs', type=int, default=5,
        help='minimum number of pairs per clip; a shorter shot is skipped '
        '(default: 5)')  # fmt: skip
    add('--max-pairs', type=int, default=100,
        help='maximum number of pairs per clip; a longer shot becomes several clips '
        '(default: 100)')  # fmt: skip
    add('--first-number', type=int, default=47,
        help='file number of the first pair of a clip (default: 47)')  # fmt: skip
    add('--stride', type=stride, default='auto', metavar='N',
        help='source frames per blurry frame; auto (default) chooses the smallest that reaches '
        '--motion. With --window, auto is its MAX. With --variants, auto draws between half of '
        'the largest stride that does not exceed --motion and that stride')  # fmt: skip
    add('--max-stride', type=int, metavar='N',
        help='the largest stride that auto chooses (default: 4; with --variants 8); use more for '
        'high-speed video')  # fmt: skip
    add('--motion', type=float, metavar='FRACTION',
        help='motion between blurry frames that --stride auto aims at, in picture heights: the '
        '90th percentile over a picture, median over the shot (default: 0.03; REDS has 0.027 to '
        '0.06). With --variants, the upper bound of the motion (default: 0.1); the 99th '
        'percentile may reach twice that')  # fmt: skip
    add('--max-softness', type=float, metavar='FRACTION',
        help='do not use a source frame as ground truth if its sharpness is lower than that of its '
        f'neighbours by more than FRACTION (default: 1, off; with --variants {MAX_SOFTNESS})'
        )  # fmt: skip
    exposure = parser.add_mutually_exclusive_group()
    exposure.add_argument('--shutter', type=float, nargs=2, default=(0.3, 1.0),
        metavar=('MIN', 'MAX'),
        help='exposure in intervals of the blurry clip, drawn once per clip '
        '(default: 0.3 1.0)')  # fmt: skip
    exposure.add_argument('--window', type=int, nargs=2, metavar=('MIN', 'MAX'),
        help='average an odd number of source frames, drawn once per clip; for videos with about '
        '200 frames per second or more')  # fmt: skip
    add('--hand', type=float, default=0, metavar='FRACTION',
        help='fraction of clips whose exposure changes from frame to frame, between 0.05 and 1 '
        'interval, as in a hand-held camera (default: 0)')  # fmt: skip
    add('--lights', type=float, nargs=2, default=(1, 1), metavar=('MIN', 'MAX'),
        help='before averaging, treat clipped pixels as this many times brighter than white; drawn '
        'once per clip (default: 1 1, not brighter)')  # fmt: skip
    add('--sub-frames', type=int, default=8,
        help='sub-frames per source interval (default: 8; fewer for slow variants)')  # fmt: skip
    add('--light', choices=('linear', 'gamma', 'encoded'), default='linear',
        help='values to average: linear light of the sRGB curve (linear, default), light of a '
        "power of 2.2 (gamma, as GoPro's blur_gamma), or stored values (encoded, as GoPro's blur)"
        )  # fmt: skip
    add('--seed', type=int, default=0,
        help='seed of all random choices, combined with the name of the clip (default: 0)'
        )  # fmt: skip
    add('--workers', type=int, default=os.cpu_count(), metavar='N',
        help='threads (default: one per processor)')  # fmt: skip
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
        parser.error('--min-pairs must not exceed --max-pairs')
    no_camera = 'no camera has an exposure longer than the interval between frames'
    low, high = args.shutter
    if not 0 < low <= high <= 1:
        parser.error(f'--shutter {low:g} {high:g}: need 0 < MIN <= MAX <= 1; {no_camera}')
    if not 0 < args.max_softness <= 1:
        parser.error(f'--max-softness {args.max_softness:g}: must be above 0 and at most 1')
    if not 0 <= args.hand <= 1:
        parser.error(f'--hand {args.hand:g}: must be between 0 and 1')
    if args.hand and args.window:
        parser.error('--hand varies the --shutter, so it cannot be combined with --window')
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
    cv2.setNumThreads(1)  # the flow depends on this number; the pool below is used instead
    try:
        with (
            files.sole_writer(recipe.out_dir),
            files.report_full_disk(recipe.out_dir),
            Workers(workers) as pool,
        ):
            try:
                convert(sources, recipe, pool)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    except KeyboardInterrupt:
        raise UserError('stopped; to resume, run the same command again') from None
