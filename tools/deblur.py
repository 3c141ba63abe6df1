"""Restore blurry videos: python tools/deblur.py in.mp4 out.mp4.

Takes videos, folders of images, images, or a folder of any of these; keeps size, frame rate, time
stamps, sound and subtitles. Processes started by torchrun or as a Slurm array share the inputs.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from dblrgan_mm import launch
from dblrgan_mm.clips.frames import IMAGE_SUFFIXES
from dblrgan_mm.clips.sources import expand
from dblrgan_mm.errors import UserError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def natural(text: str) -> int:
        if int(text) < 0:
            raise argparse.ArgumentTypeError(f'must not be negative, got {text}')
        return int(text)

    def rate(text: str) -> Fraction:
        try:
            value = Fraction(text).limit_denominator(1_000_000)
        except ZeroDivisionError:
            value = Fraction(0)
        if not 0 < value <= 10_000:
            raise argparse.ArgumentTypeError(f'must be above 0, at most 10000, got {text}')
        return value

    add = parser.add_argument
    add('inputs', nargs='+', metavar='INPUT', type=Path, help='video, folder of images, or image')
    add('output', metavar='OUTPUT', type=Path,
        help='.mp4, .mkv, .mov, .png, .jpg, or a folder; for several inputs a folder')  # fmt: skip
    add('--checkpoint', metavar='FILE',
        help='published weights, checkpoint of a training, state dict or ONNX file; or '
        'dblrnet_plus (default) or dblrgan_plus, the weights of the package')  # fmt: skip
    add('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    add('--dtype', default='auto', choices=('auto', 'float32', 'bfloat16', 'float16', 'int8'),
        help='of the convolutions (default: the fastest of the floating ones that the device has; '
        'int8: for CPUs with VNNI, faster still, and rounds more)')  # fmt: skip
    add('--tile', type=launch.positive, metavar='ROWS',
        help='rows computed at once: memory, not the result (default: by itself)')  # fmt: skip
    add('--compile', action='store_true', help='compile the network, and say whether it pays')
    add('--side-by-side', action='store_true', help='blurry frame | restored frame')
    add('--start', type=natural, default=0, metavar='N', help='first frame, counted from 0')
    add('--end', type=natural, metavar='N', help='frame after the last one (default: all)')
    add('--codec', choices=('h264', 'h265', 'ffv1'),
        help='of a video (default: h264; h265 for 10 bits); ffv1: lossless .mkv')  # fmt: skip
    add('--crf', type=int, choices=range(52), metavar='N',
        help='quality of h264 (default 17) or h265 (19), 0 to 51; less is better')  # fmt: skip
    add('--fps', type=rate, default=Fraction(25), metavar='RATE',
        help='frames per second of images that become a video (25), or 30000/1001')  # fmt: skip
    add('--overwrite', action='store_true', help='replace outputs, and begin unfinished ones anew')
    add('--resume', action='store_true', help='go on where a run that was stopped was')
    args = parser.parse_args(argv)
    if args.end is not None and args.end <= args.start:
        parser.error(f'--end {args.end} must be above --start {args.start}')
    return args


def plan(args: argparse.Namespace) -> tuple[list[tuple[Path, Path]], bool]:
    """Inputs with their outputs, and whether these lie in a folder made for several."""
    from dblrgan_mm.inference.video_io import CONTAINERS, is_video_name

    sources = [source for given in args.inputs for source in expand(given)]
    if len(sources) == 1 and sources == args.inputs:
        return [(sources[0], args.output)], False
    if args.output.suffix.lower() in (*CONTAINERS, *IMAGE_SUFFIXES) or args.output.is_file():
        raise UserError(f'{args.output}: {len(sources)} inputs need a folder to go to; give one')
    if not args.output.parent.is_dir():
        raise UserError(
            f'{args.output}: the folder {args.output.parent} does not exist; make it first'
        )
    jobs: dict[Path, Path] = {}
    for source in sources:
        target = args.output / source.name
        if is_video_name(source):
            suffix = '.mkv' if args.codec == 'ffv1' else source.suffix.lower()
            target = target.with_suffix(suffix if suffix in CONTAINERS else '.mp4')
        elif source.is_file():
            target = target.with_suffix('.png')
        if target.resolve() == source.resolve():
            raise UserError(f'{target}: is the input; give another output')
        if target in jobs:
            raise UserError(f'{source} and {jobs[target]} would both become {target}; rename one')
        jobs[target] = source
    return [(source, target) for target, source in jobs.items()], True


def place_among_processes() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, by torchrun or Slurm.

    Raises:
        UserError: a Slurm array whose numbers have gaps, so that inputs would be left out.
    """
    env = os.environ

    def number(name: str, default: int) -> int:
        return int(env.get(name, default))

    if 'RANK' in env and 'WORLD_SIZE' in env:
        return int(env['RANK']), int(env['WORLD_SIZE']), number('LOCAL_RANK', 0)
    rank, processes = 0, 1
    if 'SLURM_ARRAY_TASK_ID' in env:
        first, step = number('SLURM_ARRAY_TASK_MIN', 0), number('SLURM_ARRAY_TASK_STEP', 1)
        rank = (int(env['SLURM_ARRAY_TASK_ID']) - first) // step
        processes = number('SLURM_ARRAY_TASK_COUNT', rank + 1)
        last = number('SLURM_ARRAY_TASK_MAX', first + step * (processes - 1))
        if (last - first) // step + 1 != processes:
            raise UserError(
                'the Slurm array has gaps, so inputs would be left out: give it numbers without '
                f'any, such as --array=0-{processes - 1}'
            )
    # set by srun alone: a batch script is no step, and runs once
    tasks = number('SLURM_STEP_NUM_TASKS', 1)
    if tasks > 1:
        rank = rank * tasks + number('SLURM_PROCID', 0)
    return rank, processes * tasks, number('SLURM_LOCALID', 0) if tasks > 1 else 0


def load(args: argparse.Namespace, local_rank: int, processes: int) -> Any:
    """The network, on this process's GPU; its description goes to the log."""
    from dblrgan_mm.inference.deblurrer import Deblurrer, find_device

    device = args.device
    if processes > 1 and device in ('auto', 'cuda'):
        device = str(find_device(device))
        if device == 'cuda':
            import torch

            device = f'cuda:{local_rank % torch.cuda.device_count()}'
    deblurrer = Deblurrer.from_checkpoint(
        args.checkpoint, device, args.dtype, args.tile, args.compile
    )
    if args.checkpoint is None:
        print(
            f'weights of the package: trained on {deblurrer.meta["training_data"]} '
            f'({deblurrer.meta["metric"]}); give better ones with --checkpoint',
            file=sys.stderr,
        )
    return deblurrer


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')  # its warnings stand before our messages
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    logging.getLogger('dblrgan_mm').setLevel(logging.INFO)
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from dblrgan_mm.inference.restore_clip import Options, check_target, restore_clip

    rank, processes, local_rank = place_among_processes()
    jobs, several = plan(args)
    if several:
        try:
            args.output.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f'{args.output}: cannot be made ({error.strerror})') from error
    else:
        check_target(*jobs[0], args.overwrite)
    if processes > 1:
        share = len(jobs[rank::processes])
        print(f'process {rank} of {processes}: {share} of {len(jobs)} inputs')
    jobs = jobs[rank::processes]
    options = Options(args.start, args.end, args.side_by_side, args.codec, args.crf, args.fps)
    failed, deblurrer = [], None
    for source, target in jobs:
        if several and target.exists() and not args.overwrite:
            print(f'{target}: is there')
            continue
        deblurrer = deblurrer or load(args, local_rank, processes)

        def progress(total: int | None, done: int, source: Path = source) -> Any:
            bar.reset(total)
            bar.initial = done
            bar.update(done)
            bar.set_description(source.name)
            return bar.update

        try:
            with (
                tqdm(unit='frame', disable=None if processes == 1 else True) as bar,
                logging_redirect_tqdm(),
            ):
                count, faults = restore_clip(
                    source,
                    target,
                    deblurrer,
                    options,
                    overwrite=args.overwrite,
                    resume=args.resume,
                    progress=progress,
                )
        except KeyboardInterrupt:
            begun = target.with_name(target.name + '.part')
            if not begun.exists():
                raise
            raise UserError(
                f'stopped; what is finished is in {begun}, and the same command with --resume '
                'goes on there'
            ) from None
        except Exception as error:
            if not several:
                raise
            failed.append(source)
            if not isinstance(error, UserError):
                traceback.print_exc()
            print(f'error: {source if not str(error) else error}', file=sys.stderr)
            continue
        print(f'{target}: {count} frames restored')
        if faults:
            failed.append(source)
            more = f' (and {len(faults) - 1} more)' if len(faults) > 1 else ''
            told = f'{faults[0]}{more}: the {count} frames that can be read were restored'
            print(f'error: {told}', file=sys.stderr)
    if failed and several:
        raise UserError(f'{len(failed)} of {len(jobs)} inputs failed, as told above')
    if failed:
        sys.exit(1)


if __name__ == '__main__':
    launch.run(main)
