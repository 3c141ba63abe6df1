"""Strip a checkpoint to the generator, with a description of what it is.

Writes OUT-<first 8 digits of the file's SHA-256>.pth. The weights are those of the moving average
where the training kept one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dblrgan_mm import files, launch
from dblrgan_mm.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('checkpoint', metavar='CHECKPOINT', help='as for tools/deblur.py')
    add('target', metavar='OUT.pth', type=Path)
    add('--trained-on', required=True, metavar='TEXT', help='data and schedule')
    add('--metric', required=True, metavar='TEXT', help='what it reached, on what')
    args = parser.parse_args(argv)
    target = args.target
    if target.suffix != '.pth':
        raise UserError(f'{target}: must end with .pth')
    if not target.parent.is_dir():
        raise UserError(f'{target}: the folder {target.parent} does not exist; make it first')

    from dblrgan_mm.inference.checkpoint import load_generator, publish

    generator = load_generator(args.checkpoint)
    with files.write_faults_told(target, 'Make room and run the same command again'):
        written = publish(generator, target, args.trained_on, args.metric)
    print(f'{written}: {written.stat().st_size / 1e6:.2f} MB')
    print(f'architecture: {generator.architecture}')
    print(f'moving average: {"yes" if generator.averaged else "no"}')
    print(f'trained on: {args.trained_on}\nmetric: {args.metric}')


if __name__ == '__main__':
    launch.run(main)
