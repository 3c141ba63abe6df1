"""Check every clip and every frame of a data set, or of a clip store made from it.

Opens every image, compares sizes, matches blurry with sharp frames, and compares the numbers of
clips and frames with the published ones. For a clip store, also compares the checksums. Prints a
table, and the clip and frame of every fault; the exit code is 1 if there is a fault.
"""

import argparse
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from dblrgan_mm import launch
from dblrgan_mm.clips import clip_store, layouts
from dblrgan_mm.clips.clip import Clip, Fault
from dblrgan_mm.errors import DatasetError
from dblrgan_mm.files import sha256


@dataclass
class Report:
    """The findings in one split."""

    clips: int = 0
    frames: int = 0
    sizes: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    gradient_ratio: list[float] = field(default_factory=list)


def main() -> None:
    parser = launch.layout_parser(__doc__.split('\n\n')[0])
    parser.add_argument(
        '--own',
        action='store_true',
        help='your own clips: do not compare with the published numbers',
    )
    parser.add_argument(
        '--statistics', action='store_true', help='also measure how blurry the blurry frames are'
    )
    args = parser.parse_args()
    layout = layouts.LAYOUTS[args.layout]
    published = {} if args.own else layout.published
    splits = args.split or layout.splits or ['']
    if not clip_store.is_store(args.root):  # a store names the arguments that it was made with
        for split in splits:
            layouts.require_arguments(args.layout, split, args.layout_args)
    reports = {}
    for split in splits:
        reports[split] = report = Report()
        try:
            clips = find(report, args, split)
        except DatasetError as error:
            report.faults.append(Fault('', None, str(error)))
            continue
        check_counts(report, published.get(split))
        check_images(report, clips, split, args)
    print_table(reports, published)
    if args.statistics:
        print_statistics(reports)
    faults = [(split, fault) for split, report in reports.items() for fault in report.faults]
    for split, fault in faults:
        place = '/'.join(part for part in (split, fault.clip) if part)
        place += f', frame {fault.frame}' if fault.frame else ''
        print(f'{place}: {fault.message}' if place else fault.message)
    print(f'faults: {len(faults)}')
    sys.exit(bool(faults))


def find(report: Report, args: argparse.Namespace, split: str) -> list[Clip]:
    """Return the clips of a split whose files are complete; report the faults of the others.

    Raises:
        DatasetError: if the split does not exist or has no clips.
    """
    if clip_store.is_store(args.root):
        entries = clip_store.read_split(args.layout, args.root, split, args.layout_args)
        report.clips = len(entries)
        clips = whole_files(report, entries, split, args)
    else:
        found = layouts.find_clips(
            args.layout, args.root, split, not args.unpaired, **args.layout_args
        )
        faults = [list(files.faults()) for files in found]
        report.clips = len(found)
        report.faults += itertools.chain(*faults)
        clips = [files.clip() for files, wrong in zip(found, faults, strict=True) if not wrong]
    report.frames = sum(len(clip.frames) for clip in clips)
    return clips


def check_counts(report: Report, published: tuple[int, int] | None) -> None:
    """Compare the numbers of clips and frames with the published ones."""
    if published and published != (report.clips, report.frames):
        message = (
            f'{report.clips} clips with {report.frames} frames, but the published data set has '
            f'{published[0]} with {published[1]}. Check that it is complete. For your own clips, '
            'use --own'
        )
        report.faults.append(Fault('', None, message))


def whole_files(
    report: Report, entries: dict[str, dict], split: str, args: argparse.Namespace
) -> list[Clip]:
    """Return the clips of a store whose files match the checksums in the index."""
    from tqdm import tqdm

    def look(name: str) -> Clip | Fault:
        entry = entries[name]
        file = args.root / entry['file']
        try:
            clip = clip_store.load_clip(args.root, name, entry, not args.unpaired)
        except DatasetError as error:
            return Fault(name, None, str(error.__cause__ or error))
        if sha256(file) == entry['sha256']:
            return clip
        message = (
            f'{file} is damaged: its checksum differs from that in the index. Delete it and run '
            'the conversion again.'
        )
        return Fault(name, None, message)

    with ThreadPoolExecutor(args.workers) as pool:
        looks = pool.map(look, entries)
        found = list(tqdm(looks, f'{split} checksums', len(entries), unit='clip'))
    report.faults += [one for one in found if isinstance(one, Fault)]
    return [one for one in found if isinstance(one, Clip)]


def check_images(report: Report, clips: list[Clip], split: str, args: argparse.Namespace) -> None:
    """Open every frame of the clips and compare its size with that of the clip's first frame."""
    from tqdm import tqdm

    pairs = [(clip, t) for clip in clips for t in range(len(clip.frames))]

    def look(pair: tuple[Clip, int]):
        clip, t = pair
        images, faults = [], []
        for side in (clip.blurry, clip.sharp) if clip.sharp else (clip.blurry,):
            try:
                images.append(clip_store.read_any(side[t]))
            except ValueError as error:
                faults.append(Fault(clip.name, clip.frames[t], str(error)))
        whole = args.statistics and len(images) == 2 and images[0].shape == images[1].shape
        return [image.shape[:2] for image in images], faults, compare(*images) if whole else None

    first: dict[str, tuple[int, int]] = {}
    with ThreadPoolExecutor(args.workers) as pool:
        done = tqdm(pool.map(look, pairs), f'{split} frames', len(pairs), unit='frame')
        for (clip, t), (shapes, faults, statistic) in zip(pairs, done, strict=True):
            report.faults += faults
            for height, width in shapes:
                expected = first.setdefault(clip.name, (height, width))
                if (height, width) != expected:
                    message = (
                        f'{width}x{height} pixels, but the first frame of its clip has '
                        f'{expected[1]}x{expected[0]}'
                    )
                    report.faults.append(Fault(clip.name, clip.frames[t], message))
            if statistic:
                report.psnr.append(statistic[0])
                report.gradient_ratio.append(statistic[1])
    report.sizes = {f'{width}x{height}' for height, width in first.values()}


def compare(blurry: np.ndarray, sharp: np.ndarray) -> tuple[float, float]:
    """Measure how blurry a frame is: PSNR in dB on 8-bit RGB, and ratio of gradient energies.

    The energy is the sum of squared luma differences (BT.601) between neighbouring pixels,
    horizontally and vertically. The ratio is 1 for a frame as sharp as its partner and falls
    towards 0 with increasing blur.
    """
    import cv2

    energies = []
    for image in (blurry, sharp):
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        energies.append(sum(float(np.square(np.diff(luma, axis=axis)).sum()) for axis in (0, 1)))
    return cv2.PSNR(blurry, sharp), energies[0] / max(energies[1], 1.0)


def print_table(reports: dict[str, Report], published: dict[str, tuple[int, int]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table('split', 'clips', 'published', 'frames', 'published', 'pixels', 'faults')
    for split, report in reports.items():
        clips, frames = published.get(split, ('', ''))
        sizes = ', '.join(sorted(report.sizes))
        cells = (split, report.clips, clips, report.frames, frames, sizes, len(report.faults))
        table.add_row(*map(str, cells))
    Console().print(table)


def print_statistics(reports: dict[str, Report]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table('split', 'blurry against sharp', 'lowest', '25 %', 'median', '75 %', 'highest')
    for split, report in reports.items():
        rows = (('PSNR, dB', report.psnr, 2), ('gradient energy', report.gradient_ratio, 3))
        for name, values, digits in rows:
            if values:
                quartiles = np.percentile(values, (0, 25, 50, 75, 100))
                table.add_row(split, name, *(f'{value:.{digits}f}' for value in quartiles))
    Console().print(table)
