"""Compare restorers by the same scores.

    dblrgan-mm compare work_dirs/compare --data gopro=data/GOPRO_Large:test \\
        --method DBLRNet=dblrnet_gopro:CHECKPOINT \\
        --method NAFNet=baselines/nafnet_gopro:CHECKPOINT \\
        --method MAXIM=frames/maxim

prints a table whose first row is the blurry input, and writes it as Markdown, CSV and JSON, with a
plot, restored frames, picture grids, and a page for a browser: OUT/index.html. A method that has
already finished with the same config, checkpoint and data does not run again.
"""

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

from dblrgan_mm import files, launch
from dblrgan_mm.comparison.report import INPUT, SHARP
from dblrgan_mm.errors import UserError
from dblrgan_mm.resources import find_config

_GRIDS = 3  # clips of each data set to draw


def main() -> None:
    from dblrgan_mm.clips.layouts import LAYOUTS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('out', type=Path, metavar='OUT', help='output folder for tables, frames and pictures')
    add('--data', action='append', required=True, metavar='NAME=ROOT:SPLIT',
        help='data set, or a clip store of it; repeat for several')  # fmt: skip
    add(
        '--layout',
        choices=LAYOUTS,
        default='gopro',
        metavar='LAYOUT',
        help='layout of the data sets, as in the configs (default: gopro)',
    )
    add('--layout-args', nargs='+', action=launch.KeyValue, default={}, metavar='KEY=VALUE',
        help='arguments of the layout, e.g. exposure=3ms24ms')  # fmt: skip
    add('--method', action='append', default=[], metavar='NAME=CONFIG[:CHECKPOINT]|FOLDER',
        help='restorer, repeat for several; CHECKPOINT is a file or a name of packaged weights; '
        'without it: random weights, to measure the cost. FOLDER has frames that another program '
        'restored: DATA/CLIP/FRAME.png')  # fmt: skip
    add('--unpaired', action='store_true',
        help='do not look for sharp frames; use scores that need none')  # fmt: skip
    add('--device', default='auto', help='auto, cpu, cuda or cuda:1 (default: auto)')
    add('--workers', type=launch.positive, default=os.cpu_count(), metavar='N',
        help='scoring processes (default: one per CPU core)')  # fmt: skip
    args = parser.parse_args()
    launch.require_mmagic()
    data = [_parse_data(text, args) for text in args.data]
    methods = [_parse_method(text) for text in args.method]
    for kind, names in (('--data', data), ('--method', methods)):
        names = [given.name for given in names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UserError(f'{kind}: the name {twice!r} is given twice; choose another one')
        reserved = next((name for name in (INPUT, SHARP) if name in names), None)
        if reserved:
            raise UserError(f'{kind}: the name {reserved!r} is reserved; choose another one')
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    with files.sole_writer(args.out):
        compare(args, data, methods)


def _parse_data(text: str, args: argparse.Namespace) -> Any:
    from dblrgan_mm.comparison.restoring import Clips

    name, _, place = text.partition('=')
    root, _, split = place.rpartition(':')
    if not (name and root):  # patterns need no split
        raise UserError(f'--data takes NAME=ROOT:SPLIT, got {text!r}')
    return Clips(_plain(name), args.layout, root, split, args.layout_args, not args.unpaired)


def _parse_method(text: str) -> Any:
    from dblrgan_mm.comparison.outside import Folder
    from dblrgan_mm.comparison.restoring import Method

    name, _, place = text.partition('=')
    if name and place and Path(place).is_dir():
        return Folder(_plain(name), place)
    config, _, checkpoint = place.partition(':')
    if not (name and config):
        raise UserError(
            f'--method takes NAME=CONFIG, NAME=CONFIG:CHECKPOINT or NAME=FOLDER, got {text!r}'
        )
    try:
        config = find_config(config)
    except UserError as error:
        raise UserError(f'--method {name}: {place} is not a folder of frames; {error}') from error
    return Method(_plain(name), config, launch.find_checkpoint(checkpoint) if checkpoint else None)


def _plain(name: str) -> str:
    if '/' in name or '|' in name or name.startswith('.'):
        raise UserError(f'the name {name!r} must not contain / or |, or start with a dot')
    return name


def compare(args: argparse.Namespace, data: list, methods: list) -> None:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from dblrgan_mm.comparison import report
    from dblrgan_mm.comparison.running import Comparison
    from dblrgan_mm.devices import find_device
    from dblrgan_mm.viewer import write_page

    device = str(find_device(args.device))
    comparison = Comparison(args.out, data, methods, device, args.workers)
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    results: dict[str, dict] = {}
    with comparison.pool, Progress(*columns, console=console) as progress:
        for method in comparison.rows:
            name = method if isinstance(method, str) else method.name
            task = progress.add_task(name, total=comparison.frames)
            result = comparison.result(method, functools.partial(progress.advance, task))
            if 'failed' in result and method in (INPUT, SHARP):
                raise UserError(f'{name} frames: {result["failed"]}')
            if 'failed' in result:
                console.print(f'{name} failed: {result["failed"]}', markup=False)
            results[name] = result

    names = [given.name for given in data]
    tables = report.tables(results, names)
    table = report.markdown(tables)
    (args.out / 'table.md').write_text(table, encoding='utf-8')
    report.write_csv(results, args.out / 'scores.csv')
    summary = json.dumps(report.summary(results, names), indent=1)
    (args.out / 'table.json').write_text(summary, encoding='utf-8')
    report.plot(results, names, args.out / 'quality_cost.png')
    failed = [name for name, result in results.items() if 'failed' in result]
    comparison.draw_grids([name for name in results if name not in failed], _GRIDS)
    page = args.out / 'index.html'
    notes = [f'{name} failed: {results[name]["failed"]}' for name in failed]
    write_page(page, f'Comparison on {", ".join(names)}', comparison.viewed(results), tables, notes)
    print(table)
    print(f'Tables, plot and pictures: {args.out}. Page for a browser: {page}')
    if failed:
        raise UserError(f'failed: {", ".join(failed)}; see the table for the reason')
