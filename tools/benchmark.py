"""Measure speed.

``infer``: seconds per frame of restoring, compared with a plain loop over the same network and with
other restorers. ``grow``: how time and memory grow with frame size and clip length. ``train``:
seconds per training step. ``data``: samples per second of loading, for each way of storing frames.
"""

import argparse
import json
from pathlib import Path

from dblrgan_mm import launch
from dblrgan_mm.errors import LaunchError


def size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f'give WIDTHxHEIGHT, e.g. 1280x720, got {text!r}')
    return launch.positive(width), launch.positive(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)

    infer = commands.add_parser(
        'infer',
        help='speed of restoring',
        description='Measure the seconds per frame of a Deblurrer, in each dtype that is fast on '
        'the device, and compare it with other restorers and with a plain float32 loop over the '
        'same network, without any optimisation of this project. All of them restore the same '
        'clip in one run, measured alternately, each in its own process. Also reports how much the '
        "pixels differ, the speed relative to the machine's limit (a large matrix product), and "
        'which operations take the time.',
    )
    infer.add_argument('--sharp', type=Path, help='folder of the sharp frames, for PSNR')
    infer.add_argument('--size', type=size, metavar='WIDTHxHEIGHT',
        help='enlarge the frames for the timing; frames are scored in their own size')  # fmt: skip
    infer.add_argument('--peers', nargs='+', default=[], metavar='CONFIG',
        help='configs of other restorers, e.g. configs/baselines/*_gopro.py')  # fmt: skip

    grow = commands.add_parser(
        'grow',
        help='speed of restoring by frame size and clip length',
        description='Measure the seconds per frame and the memory of a Deblurrer for each frame '
        'size, and for each clip length at the first size; each in a new process.',
    )
    grow.add_argument('--sizes', type=size, nargs='+', required=True, metavar='WIDTHxHEIGHT')
    grow.add_argument('--lengths', type=launch.positive, nargs='*', default=[], metavar='FRAMES')
    grow.add_argument('--plot', type=Path, help='PNG file for a plot')

    for command in (infer, grow):
        command.add_argument('checkpoint', help='as for tools/deblur.py')
        command.add_argument('blurry', type=Path, help='folder of blurry frames')
        command.add_argument('--frames', type=launch.positive, default=5,
            help='number of frames to time (default: 5)')  # fmt: skip

    train = commands.add_parser(
        'train',
        help='speed of training',
        description='Measure the seconds per training step of each config on one batch of its '
        'data; of the first config also without any optimisation of this project. The configs are '
        'measured alternately, each in its own process. Also reports the speed relative to the '
        "machine's limit (a large matrix product), the share of time that training with its data "
        'loader waits for data, and which operations take the time.',
    )
    train.add_argument('config', nargs='+', help='the others are compared with the first')
    train.add_argument('--data-root', help="data set folder; overrides the configs'")
    train.add_argument('--cfg-options', nargs='+', action='extend', default=[],
        metavar='KEY=VALUE', help='as for tools/train.py; applies to all configs')  # fmt: skip
    train.add_argument('--steps', type=launch.positive, default=5,
        help='steps per measurement (default: 5)')  # fmt: skip

    for command in (infer, grow, train):
        command.add_argument('--device', default='auto')
        command.add_argument(
            '--repeats', type=launch.positive, default=3, help='measurements of each (default: 3)'
        )

    data = commands.add_parser(
        'data',
        help='speed of loading training data',
        description="Measure the samples per second of a config's training data loader: from image "
        "files with MMagic's own transforms, from an LMDB as MMagic writes it, and from a clip "
        'store. All load the same windows and crops in one run, measured alternately. Writes an '
        'LMDB and a clip store of all frames of the training set.',
    )
    data.add_argument('config', help='config whose training data are image files')
    data.add_argument('--data-root', help="data set folder; overrides the config's")
    data.add_argument('--workers', type=int, default=1, help='worker processes (default: 1)')
    data.add_argument('--seconds', type=float, default=5,
        help='length of a measurement (default: 5)')  # fmt: skip
    data.add_argument('--repeats', type=int, default=5, help='measurements of each (default: 5)')
    data.add_argument(
        '--folder', type=Path, help='where to write LMDB and store (default: a temporary folder)'
    )
    for command in (infer, grow, train, data):
        command.add_argument('--out', type=Path, help='JSON file for the results')
    args = parser.parse_args()
    for file in (args.out, getattr(args, 'plot', None)):
        if file and not file.parent.is_dir():
            raise LaunchError(f'{file}: the folder {file.parent} does not exist; create it first')

    if getattr(args, 'plot', None) and args.plot.suffix.lower() != '.png':
        raise LaunchError(f'--plot {args.plot}: the file name must end with .png')

    from benchmarks import inference, loading, report, training

    measure, tell = {
        'infer': (inference.measure_inference, report.print_inference),
        'grow': (inference.measure_growth, report.print_growth),
        'train': (training.measure_training, report.print_training),
        'data': (loading.measure_loading, report.print_loading),
    }[args.command]
    result = measure(args)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')
    tell(result)
    if args.command == 'grow' and args.plot:
        report.plot_growth(result, args.plot)


if __name__ == '__main__':
    launch.run(main)
