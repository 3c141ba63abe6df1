"""Measure speed.

``infer``: seconds a frame of restoring, against a plain loop over the same network and against
other restorers. ``grow``: how they and the memory grow with frames and clips. ``train``: seconds a
step. ``data``: samples per second of loading, by each way of keeping the frames.
"""

import argparse
import json
from pathlib import Path

from dblrgan_mm import launch
from dblrgan_mm.errors import LaunchError


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT."""
    width, _, height = text.partition('x')
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f'give WIDTHxHEIGHT, e.g. 1280x720, got {text!r}')
    return launch.positive(width), launch.positive(height)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest='command', required=True)

    infer = commands.add_parser(
        'infer',
        help='restoring',
        description='Seconds a frame of a Deblurrer, in each dtype that the device is fast in, '
        'against a plain loop of the same network in float32, without any of our measures, and '
        'against other restorers. Same machine, same run, same clip, taken by turns, each in a '
        "process of its own; what the pixels lose; the share of the machine's largest matrix "
        'product; and which operations take the time.',
    )
    infer.add_argument('--sharp', type=Path, help='folder of their sharp frames')
    infer.add_argument('--size', type=size, metavar='WIDTHxHEIGHT',
        help='enlarge the frames that are timed, not those that are scored')  # fmt: skip
    infer.add_argument('--peers', nargs='+', default=[], metavar='CONFIG',
        help='configs of other restorers, e.g. configs/baselines/*_gopro.py')  # fmt: skip

    grow = commands.add_parser(
        'grow',
        help='restoring, by the size of frames and the length of clips',
        description='Seconds a frame and memory of a Deblurrer for each size, and for each length '
        'of a clip of the first size; a new process for each.',
    )
    grow.add_argument('--sizes', type=size, nargs='+', required=True, metavar='WIDTHxHEIGHT')
    grow.add_argument('--lengths', type=launch.positive, nargs='*', default=[], metavar='FRAMES')
    grow.add_argument('--plot', type=Path, help='PNG file')

    for command in (infer, grow):
        command.add_argument('checkpoint', help='as for tools/deblur.py')
        command.add_argument('blurry', type=Path, help='folder of blurry frames')
        command.add_argument('--frames', type=launch.positive, default=5, help='timed (5)')

    train = commands.add_parser(
        'train',
        help='training',
        description="Seconds a step of each config's training on one batch of its data, the "
        'first config also without our measures; taken by turns, each in a process of its own; '
        "the share of the machine's largest matrix product; how much of a training with its "
        'loader waits for data; and which operations take the time.',
    )
    train.add_argument('config', nargs='+', help='the first is what the others are compared to')
    train.add_argument('--data-root', help="the data set's folder, in place of the configs'")
    train.add_argument('--cfg-options', nargs='+', action='extend', default=[],
        metavar='KEY=VALUE', help='as for tools/train.py, for all configs')  # fmt: skip
    train.add_argument('--steps', type=launch.positive, default=5, help='of a measurement (5)')

    for command in (infer, grow, train):
        command.add_argument('--device', default='auto')
        command.add_argument(
            '--repeats', type=launch.positive, default=3, help='measurements of each (3)'
        )

    data = commands.add_parser(
        'data',
        help='loading for training',
        description='Samples per second of the training data loader of a config, from image files '
        "by MMagic's own transforms, from an LMDB as MMagic makes it, and from a clip store. Same "
        'machine, same run, same windows and crops, taken by turns. Writes the LMDB and the store '
        'of all frames of the training set.',
    )
    data.add_argument('config', help='config whose training data are image files')
    data.add_argument('--data-root', help="the data set's folder, in place of the config's")
    data.add_argument('--workers', type=int, default=1, help='worker processes (default: 1)')
    data.add_argument('--seconds', type=float, default=5, help='length of a measurement (5)')
    data.add_argument('--repeats', type=int, default=5, help='measurements of each (5)')
    data.add_argument(
        '--folder', type=Path, help='where LMDB and store go (default: a temporary one)'
    )
    for command in (infer, grow, train, data):
        command.add_argument('--out', type=Path, help='JSON file for the figures')
    args = parser.parse_args()
    for file in (args.out, getattr(args, 'plot', None)):
        if file and not file.parent.is_dir():
            raise LaunchError(f'{file}: the folder {file.parent} does not exist; make it first')

    if getattr(args, 'plot', None) and args.plot.suffix.lower() != '.png':
        raise LaunchError(f'--plot {args.plot}: the plot is a PNG; give a name that ends with .png')

    from dblrgan_mm.benchmarks import inference, loading, report, training

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
