"""Extract the generator from a checkpoint, and publish it with a description.

Writes OUT-<first 8 hex digits of the file's SHA-256>.pth. Uses the weights of the moving average if
the checkpoint has one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dblrgan_mm import files, launch


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', metavar='CHECKPOINT', help='training checkpoint or state dict')
    add('target', metavar='OUT.pth', type=Path, help='file to write, without the hex digits')
    add('--trained-on', required=True, metavar='TEXT', help='training data and schedule')
    add('--metric', required=True, metavar='TEXT', help='score, and the data it was measured on')
    args = parser.parse_args(argv)
    target = args.target
    launch.require_target(target, '.pth')

    from dblrgan_mm.inference.checkpoint import load_generator, publish

    generator = load_generator(args.checkpoint)
    with files.report_write_errors(target, 'Free some space and run the same command again'):
        written = publish(generator, target, args.trained_on, args.metric)
    print(f'{written}: {written.stat().st_size / 1e6:.2f} MB')
    print(f'architecture: {generator.architecture}')
    print(f'moving average: {"yes" if generator.averaged else "no"}')
    print(f'trained on: {args.trained_on}\nmetric: {args.metric}')
