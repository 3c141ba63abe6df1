"""Restore blurry videos: dblrgan-mm deblur in.mp4 out.mp4.

Takes videos, folders of images, images, or a folder of any of these. Keeps frame size, frame rate,
time stamps, sound and subtitles. Processes started by torchrun or as a Slurm array divide the
inputs among themselves.
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

from dblrgan_mm import files, launch
from dblrgan_mm.clips.frames import IMAGE_SUFFIXES
from dblrgan_mm.errors import UserError
from dblrgan_mm.video.sources import expand


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
            raise argparse.ArgumentTypeError(
                f'must be greater than 0 and at most 10000, got {text}'
            )
        return value

    add = parser.add_argument
    add('inputs', nargs='+', metavar='INPUT', type=Path, help='video, folder of images, or image')
    add('output', metavar='OUTPUT', type=Path,
        help='.mp4, .mkv, .mov, .png or .jpg file, or a folder; a folder for several '
        'inputs')  # fmt: skip
    add('--checkpoint', metavar='FILE',
        help='published weights, training checkpoint, state dict or ONNX file; or weights that '
        'come with the package: dblrnet_ms (default), dblrnet_plus or dblrgan_plus')  # fmt: skip
    add('--device', default='auto', help='auto (default), cpu, cuda, cuda:1 ...')
    add('--dtype', default='auto', choices=('auto', 'float32', 'bfloat16', 'float16', 'int8'),
        help='dtype of the convolutions (default: the fastest floating-point dtype on the device); '
        'int8 is faster but less precise, and needs a CPU with VNNI')  # fmt: skip
    add('--tile', type=launch.positive, metavar='ROWS',
        help='rows computed at once; affects memory and speed, not the result (default: '
        'automatic)')  # fmt: skip
    add('--compile', action='store_true', help='compile the network, and use that if it is faster')
    add('--side-by-side', action='store_true',
        help='write the blurry frame to the left of the restored frame')  # fmt: skip
    add('--start', type=natural, default=0, metavar='N', help='first frame, counted from 0')
    add('--end', type=natural, metavar='N',
        help='frame after the last one (default: to the end)')  # fmt: skip
    add('--codec', choices=('h264', 'h265', 'ffv1'),
        help='video codec (default: h264, or h265 for 10 bits); ffv1 is lossless and needs '
        '.mkv')  # fmt: skip
    add('--crf', type=int, choices=range(52), metavar='N',
        help='quality of h264 (default: 17) or h265 (default: 19), 0 to 51; lower is '
        'better')  # fmt: skip
    add('--fps', type=rate, default=Fraction(25), metavar='RATE',
        help='frames per second of a video made from images, e.g. 30 or 30000/1001 (default: '
        '25)')  # fmt: skip
    add('--preview', type=launch.positive, metavar='N',
        help='restore only N frames, spread over each input; write a page that compares them, '
        'OUTPUT.preview/index.html; and print how long all frames take')  # fmt: skip
    add('--overwrite', action='store_true',
        help='replace existing outputs, and start unfinished ones from scratch')  # fmt: skip
    add('--resume', action='store_true', help='resume an interrupted run')
    args = parser.parse_args(argv)
    if args.end is not None and args.end <= args.start:
        parser.error(f'--end {args.end} must be greater than --start {args.start}')
    return args


def plan(args: argparse.Namespace) -> tuple[list[tuple[Path, Path]], bool]:
    """Return pairs of input and output, and whether the outputs are inside ``args.output``."""
    from dblrgan_mm.video.decoding import is_media_name
    from dblrgan_mm.video.writing import CONTAINERS

    sources = [source for given in args.inputs for source in expand(given)]
    if len(sources) == 1 and sources == args.inputs:
        return [(sources[0], args.output)], False
    if is_media_name(args.output) or args.output.is_file():
        raise UserError(f'{args.output}: {len(sources)} inputs need a folder as output; choose one')
    files.require_folder(args.output.parent, args.output)
    jobs: dict[Path, Path] = {}
    for source in sources:
        target = args.output / source.name
        if source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
            target = target.with_suffix('.png')
        elif source.is_file():
            suffix = '.mkv' if args.codec == 'ffv1' else source.suffix.lower()
            target = target.with_suffix(suffix if suffix in CONTAINERS else '.mp4')
        if target.resolve() == source.resolve():
            raise UserError(f'{target}: is the input; choose another output')
        if target in jobs:
            raise UserError(
                f'{source} and {jobs[target]} would both be written to {target}; rename one'
            )
        jobs[target] = source
    return [(source, target) for target, source in jobs.items()], True


def require_video(jobs: list[tuple[Path, Path]], args: argparse.Namespace) -> None:
    """Raise :class:`UserError` if an option for videos is given, but no output is a video."""
    from dblrgan_mm.video.writing import CONTAINERS

    given = [f'--{name}' for name in ('codec', 'crf') if getattr(args, name) is not None]
    if given and not any(target.suffix.lower() in CONTAINERS for _, target in jobs):
        raise UserError(
            f'{given[0]} is for videos, but {args.output} will have images; leave it out, or '
            'choose a video as output'
        )


def place_among_processes() -> tuple[int, int, int]:
    """Return rank, number of processes, and local rank, as set by torchrun or Slurm.

    Raises:
        UserError: the task numbers of a Slurm array have gaps, so that inputs would be skipped.
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
                'the Slurm array has gaps, so inputs would be skipped; use an array without gaps, '
                f'such as --array=0-{processes - 1}'
            )
    # set only by srun: a batch script without it runs once
    tasks = number('SLURM_STEP_NUM_TASKS', 1)
    if tasks > 1:
        rank = rank * tasks + number('SLURM_PROCID', 0)
    return rank, processes * tasks, number('SLURM_LOCALID', 0) if tasks > 1 else 0


def load(args: argparse.Namespace, local_rank: int, processes: int) -> Any:
    """Load the network on this process's GPU; print the description of packaged weights."""
    from dblrgan_mm.devices import find_device, keep_freed_memory
    from dblrgan_mm.inference.deblurrer import Deblurrer

    device = args.device
    if processes > 1 and device in ('auto', 'cuda'):
        device = str(find_device(device))
        if device == 'cuda':
            import torch

            device = f'cuda:{local_rank % torch.cuda.device_count()}'
    deblurrer = Deblurrer.from_checkpoint(
        args.checkpoint, device, args.dtype, args.tile, args.compile
    )
    if deblurrer.device.type == 'cpu':
        keep_freed_memory()
    if args.checkpoint is None:
        print(
            'using the weights that come with the package, trained on '
            f'{deblurrer.meta["training_data"]} ({deblurrer.meta["metric"]}); use --checkpoint for '
            'better ones',
            file=sys.stderr,
        )
    return deblurrer


def restore_one(
    source: Path, target: Path, deblurrer: Any, args: argparse.Namespace, show: bool
) -> tuple[int, list[str]]:
    """Call ``restore_clip`` with the options of the command, and a progress bar if ``show``."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from dblrgan_mm.inference.restore_clip import Options, restore_clip

    def progress(total: int | None, done: int) -> Any:
        bar.reset(total)
        bar.initial = done
        bar.update(done)
        bar.set_description(source.name)
        return bar.update

    with tqdm(unit='frame', disable=None if show else True) as bar, logging_redirect_tqdm():
        return restore_clip(
            source,
            target,
            deblurrer,
            Options(args.start, args.end, args.side_by_side, args.codec, args.crf, args.fps),
            overwrite=args.overwrite,
            resume=args.resume,
            progress=progress,
        )


def write_preview(jobs: list[tuple[Path, Path]], args: argparse.Namespace) -> None:
    """Restore a few frames of each input, write a page that shows them, and print the times."""
    from tqdm import tqdm

    from dblrgan_mm.inference.preview import preview
    from dblrgan_mm.inference.restore_clip import Options
    from dblrgan_mm.viewer import write_page

    folder = Path(f'{os.path.abspath(args.output)}.preview')
    page = folder / 'index.html'
    files.require_folder(folder.parent, folder)
    deblurrer = load(args, local_rank=0, processes=1)
    options = Options(args.start, args.end, fps=args.fps)
    clips, notes, failed = [], [], 0
    with (
        files.report_write_errors(page, 'Free some space'),
        tqdm(total=args.preview * len(jobs), unit='frame', disable=None) as bar,
    ):
        files.empty_own(folder, 'preview')
        for i, (source, _) in enumerate(jobs):
            try:
                found = preview(
                    source, folder / str(i), deblurrer, args.preview, options, bar.update
                )
            except UserError as error:
                failed += 1
                notes.append(f'error: {error}')
                continue
            clips.append(found.clip)
            notes.append(f'{source.name}: {found.estimate}')
        if clips:
            write_page(page, 'Preview', clips, notes=notes)
    print(*notes, sep='\n')
    if not clips:
        raise UserError('no preview: no input can be read')
    print(f'Page for a browser: {page}')
    if failed:
        raise UserError(f'{failed} of {len(jobs)} inputs failed, see the messages above')


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')  # its warnings would precede our messages
    logging.basicConfig(format='%(message)s', level=logging.WARNING)
    logging.getLogger('dblrgan_mm').setLevel(logging.INFO)
    from dblrgan_mm.inference.restore_clip import begun_dtype, check_target

    rank, processes, local_rank = place_among_processes()
    jobs, several = plan(args)
    require_video(jobs, args)
    if args.preview:
        if rank == 0:
            write_preview(jobs, args)
        return
    if several:
        try:
            args.output.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f'{args.output}: cannot be created ({error.strerror})') from error
    else:
        check_target(*jobs[0], args.overwrite)
    if processes > 1:
        share = len(jobs[rank::processes])
        print(f'process {rank} of {processes}: {share} of {len(jobs)} inputs')
    jobs = jobs[rank::processes]
    if args.resume and args.dtype == 'auto':  # the fastest dtype is measured and may vary
        begun = (begun_dtype(target) for _, target in jobs)
        args.dtype = next((dtype for dtype in begun if dtype), 'auto')
    failed, deblurrer = [], None
    for source, target in jobs:
        if several and target.exists() and not args.overwrite:
            print(f'{target}: already exists, skipped')
            continue
        deblurrer = deblurrer or load(args, local_rank, processes)
        try:
            count, faults = restore_one(source, target, deblurrer, args, processes == 1)
        except KeyboardInterrupt:
            part = target.with_name(target.name + '.part')
            if not part.exists():
                raise
            raise UserError(
                f'stopped; finished frames are in {part}; run the same command with --resume to '
                'continue'
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
            message = f'{faults[0]}{more}: the {count} readable frames were restored'
            print(f'error: {message}', file=sys.stderr)
    if failed and several:
        raise UserError(f'{len(failed)} of {len(jobs)} inputs failed, see the messages above')
    if failed:
        sys.exit(1)
