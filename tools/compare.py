"""Score restorers alike: ``python tools/compare.py OUT --data ... --method ...``.

    python tools/compare.py work_dirs/compare --data gopro=data/GOPRO_Large:test \\
        --method DBLRNet=configs/dblrnet_gopro.py:CHECKPOINT \\
        --method NAFNet=configs/baselines/nafnet_gopro.py:CHECKPOINT

prints a table, its first row the blurry input, and writes it as Markdown, CSV and JSON, with a
plot, restored frames and picture grids. A method that was finished before, with the same config,
checkpoint and data, is not run again.
"""

import argparse
import hashlib
import json
import multiprocessing as mp
import os
import queue
import shutil
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from dblrgan_mm import files, launch
from dblrgan_mm.comparison.report import INPUT
from dblrgan_mm.errors import UserError

_GRIDS = 3  # clips of each data set that are drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('out', type=Path, metavar='OUT', help='folder for tables, frames and pictures')
    add('--data', action='append', required=True, metavar='NAME=ROOT:SPLIT',
        help='a data set with sharp frames, or a clip store of it; may be given again')  # fmt: skip
    add('--layout', default='gopro', help='where its frames are, as in the configs (gopro)')
    add('--method', action='append', default=[], metavar='NAME=CONFIG[:CHECKPOINT]',
        help='without a checkpoint: random weights, for the cost alone; may be given again')  # fmt: skip
    add('--device', default='auto', help='auto, cpu, cuda or cuda:1 (auto)')
    add('--workers', type=launch.positive, default=os.cpu_count(), metavar='N',
        help='processes that score (default: one a processor)')  # fmt: skip
    args = parser.parse_args()
    data = [_parse_data(text, args.layout) for text in args.data]
    methods = [_parse_method(text) for text in args.method]
    for kind, names in (('--data', data), ('--method', methods)):
        names = [given.name for given in names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None or INPUT in names:
            raise UserError(f'{kind}: the name {twice or INPUT!r} is taken; choose another')
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot write to {args.out} ({error.strerror})') from error
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    with files.sole_writer(args.out):
        compare(args, data, methods)


def _parse_data(text: str, layout: str) -> Any:
    from dblrgan_mm.comparison.restoring import Clips

    name, _, place = text.partition('=')
    root, _, split = place.rpartition(':')
    if not (name and root and split):
        raise UserError(f'--data takes NAME=ROOT:SPLIT, got {text!r}')
    return Clips(_plain(name), layout, root, split)


def _parse_method(text: str) -> Any:
    from dblrgan_mm.comparison.restoring import Method

    name, _, place = text.partition('=')
    config, _, checkpoint = place.partition(':')
    if not (name and config):
        raise UserError(f'--method takes NAME=CONFIG or NAME=CONFIG:CHECKPOINT, got {text!r}')
    for path in (config, checkpoint):
        if path and not Path(path).is_file():
            raise UserError(f'--method {name}: there is no file {path}')
    return Method(_plain(name), config, checkpoint or None)


def _plain(name: str) -> str:
    if '/' in name or '|' in name or name.startswith('.'):
        raise UserError(f'{name!r} names a folder and a row: leave out / and |, and a first dot')
    return name


def compare(args: argparse.Namespace, data: list, methods: list) -> None:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from dblrgan_mm.comparison import report
    from dblrgan_mm.inference.deblurrer import find_device

    device = str(find_device(args.device))
    clips = {given.name: {clip.name: clip for clip in given.load()} for given in data}
    frames = sum(len(clip.frames) for given in clips.values() for clip in given.values())
    console = Console(stderr=True)
    results: dict[str, dict] = {}
    context = mp.get_context('spawn')
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with (
        ProcessPoolExecutor(args.workers, context, initializer=_one_thread) as pool,
        Progress(*columns, console=console) as progress,
    ):
        for method in [None, *methods]:
            name = INPUT if method is None else method.name
            folder = args.out / name
            mark = _fingerprint(method, data, clips, device)
            stored = _stored(folder / 'result.json', mark)
            task = progress.add_task(name, total=frames, completed=frames if stored else 0)
            if stored is None:
                shutil.rmtree(folder, ignore_errors=True)
                stored = _run(method, data, clips, folder, device, pool, context,
                              lambda n, task=task: progress.advance(task, n))  # fmt: skip
                if 'failed' in stored:
                    console.print(f'{name} failed: {stored["failed"]}', markup=False)
                else:
                    folder.mkdir(parents=True, exist_ok=True)
                    content = json.dumps(dict(stored, fingerprint=mark), indent=1)
                    files.write_whole(folder / 'result.json', content.encode())
            results[name] = stored

    names = [given.name for given in data]
    table = report.markdown(results, names)
    (args.out / 'table.md').write_text(table, encoding='utf-8')
    report.write_csv(results, args.out / 'scores.csv')
    summary = {
        method: {k: v for k, v in result.items() if k != 'rows'}
        | {'scores': {n: report.mean_scores(r for r in result.get('rows', ()) if r['data'] == n)
                      for n in names}}
        for method, result in results.items()
    }  # fmt: skip
    (args.out / 'table.json').write_text(json.dumps(summary, indent=1), encoding='utf-8')
    report.plot(results, names, args.out / 'quality_cost.png')
    drawn = [name for name, result in results.items() if 'failed' not in result]
    for given, named in clips.items():
        for clip in _spread(list(named.values()), _GRIDS):
            draw_grid(args.out, given, clip, drawn)
    print(table, end='')
    print(f'\nTables, plot and pictures: {args.out}')
    failed = [name for name, result in results.items() if 'failed' in result]
    if failed:
        raise UserError(f'failed: {", ".join(failed)}; the table says why')


def _one_thread() -> None:
    """Of a process that scores: the others want the processors, too."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _run(method, data, clips, folder, device, pool, context, advance) -> dict[str, Any]:
    """Restore in a process of its own, while other processes score what is complete."""
    scoring: list[Future] = []

    def score(given: str, clip: str) -> None:
        folder_or_none = None if method is None else folder
        scoring.append(pool.submit(score_one, given, clips[given][clip], folder_or_none))

    cost: dict | None = None
    if method is None:
        for given, named in clips.items():
            for clip in named:
                score(given, clip)
    else:
        messages = context.Queue()
        child = context.Process(
            target=_restore, args=(method, data, folder, device, messages), daemon=True
        )
        child.start()
        while cost is None:
            try:
                kind, *values = messages.get(timeout=1)
            except queue.Empty:
                if child.is_alive():
                    continue
                code = child.exitcode
                return dict(failed=f'its process ended with exit code {code}'
                            + (' (killed, for want of memory?)' if code == -9 else ''))  # fmt: skip
            if kind == 'failed':
                child.join()
                return dict(failed=values[0])
            if kind == 'frames':
                advance(*values)
            elif kind == 'clip':
                score(*values)
            else:
                (cost,) = values
        child.join()
    rows: list[dict] = []
    for job in scoring:
        found = job.result()
        rows += found
        if method is None:
            advance(len(found))
    rows.sort(key=lambda row: (list(clips).index(row['data']), row['clip'], row['frame']))
    return dict(rows=rows, cost=cost)


def _restore(method, data, folder, device, messages) -> None:
    """The process that restores."""
    from dblrgan_mm.comparison.restoring import restore

    try:
        messages.put(('cost', restore(method, data, folder, device,
                                      lambda *message: messages.put(message))))  # fmt: skip
    except Exception as error:  # whatever a foreign network raises becomes its row
        first = str(error).strip().split('\n')[0] or 'no message'
        messages.put(('failed', f'{type(error).__name__}: {first[:200]}'))


def score_one(given: str, clip: Any, folder: Path | None) -> list[dict[str, Any]]:
    """The scores of a clip as it was restored into a folder, or of the blurry one."""
    from dblrgan_mm.evaluation.scores import score_clip

    restored = (read_any(place) for place in restored_places(given, clip, folder))
    scores = score_clip(restored, map(read_any, clip.sharp))
    return [
        dict(data=given, clip=clip.name, frame=frame, **found)
        for frame, found in zip(clip.frames, scores, strict=True)
    ]


def restored_places(given: str, clip: Any, folder: Path | None) -> list[str]:
    from dblrgan_mm.comparison.restoring import frame_file

    if folder is None:
        return list(clip.blurry)
    return [str(frame_file(folder, given, clip.name, frame)) for frame in clip.frames]


def read_any(place: str) -> Any:
    """A frame of an image file or a clip store, uint8 (h, w, 3), RGB."""
    from dblrgan_mm.clips import clip_store
    from dblrgan_mm.clips.frames import read_frame

    return clip_store.map_frame(place) if clip_store.is_place(place) else read_frame(place)


def _spread(clips: list, count: int) -> list:
    """Some of the clips, from all over the list."""
    count = min(count, len(clips))
    return [clips[round(i * (len(clips) - 1) / max(1, count - 1))] for i in range(count)]


def draw_grid(out: Path, given: str, clip: Any, methods: list[str]) -> None:
    """The middle frame of a clip by each method, with a crop of where they differ most."""
    import cv2

    from dblrgan_mm.comparison.report import largest_difference
    from dblrgan_mm.engine.visualizer import compare_frames

    middle = len(clip.frames) // 2
    frames = [
        read_any(restored_places(given, clip, None if name == INPUT else out / name)[middle])
        for name in methods
    ]
    change = largest_difference(frames if len(frames) < 3 else frames[1:])
    frames.append(read_any(clip.sharp[middle]))
    picture = compare_frames(frames, [*methods, 'sharp'], zoom=4, change=change)
    path = out / 'grids' / f'{given}_{clip.name.replace("/", "_")}.png'
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def _fingerprint(method: Any, data: list, clips: dict, device: str) -> str:
    """Of what a result depends on."""
    parts: list[Any] = [[vars(given) for given in data], device]
    parts.append({g: {c.name: c.frames for c in named.values()} for g, named in clips.items()})
    if method is not None:
        from mmengine.config import Config

        from dblrgan_mm.inference.checkpoint import sha256

        parts.append(Config.fromfile(method.config).to_dict())
        parts.append(method.checkpoint and sha256(Path(method.checkpoint)))
    return hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()


def _stored(path: Path, mark: str) -> dict | None:
    """The result of an earlier run, if it is of the same."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return result if result.pop('fingerprint', None) == mark else None


if __name__ == '__main__':
    launch.run(main)
