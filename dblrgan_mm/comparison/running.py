"""Run a comparison: each method restores in its own process while other processes score."""

import hashlib
import json
import multiprocessing as mp
import multiprocessing.connection
import os
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import torch

from dblrgan_mm import files
from dblrgan_mm.clips import clip_store
from dblrgan_mm.clips.clip import Clip
from dblrgan_mm.clips.frames import write_png
from dblrgan_mm.comparison import lpips_weights
from dblrgan_mm.comparison.outside import Folder
from dblrgan_mm.comparison.report import INPUT, SHARP, largest_difference, main_score, name_and_unit
from dblrgan_mm.comparison.restoring import Clips, Method, frame_file, restore
from dblrgan_mm.errors import UserError
from dblrgan_mm.resources import read_config_file
from dblrgan_mm.viewer import ViewedClip

_COPIED = 'frames are copied'  # results without copies of their frames are computed again
Named = dict[str, dict[str, Clip]]  # clips by data set name and clip name


class Comparison:
    """Restores and scores with one method after another; reuses results of finished methods.

    Args:
        out: output folder; ``methods/<name>`` in it holds the frames and ``result.json`` of a
            method, also of the input and the sharp frames, so that the folder is complete.
        data: the data sets to restore.
        methods: the restorers, and folders that other programs restored.
        device: where the models run.
        workers: number of scoring processes.

    Raises:
        UserError: if data are missing, or a config or a restored folder is faulty.
    """

    def __init__(
        self,
        out: Path,
        data: list[Clips],
        methods: list[Method | Folder],
        device: str,
        workers: int,
    ) -> None:
        self.out = out
        self.data = data
        self.device = device
        self.clips: Named = {given.name: {c.name: c for c in given.load()} for given in data}
        clips = [(given, clip) for given, named in self.clips.items() for clip in named.values()]
        # restored by other programs: places by names of method, data set and clip
        self._outside = {
            (row.name, given, clip.name): row.places(given, clip, only=len(clips) == 1)
            for row in methods
            if isinstance(row, Folder)
            for given, clip in clips
        }
        source = self._source()
        # computed up front, so that a faulty config is reported before any method runs
        self.rows: list[Method | Folder | str] = [INPUT, *methods]
        if all(given.paired for given in data):
            self.rows.append(SHARP)
        self.marks = {self.folder(row): self._mark(row, source) for row in self.rows}
        self.context = mp.get_context('spawn')
        self.pool = ProcessPoolExecutor(workers, self.context, initializer=_prepare_scoring)

    @property
    def frames(self) -> int:
        """Number of frames that each method restores."""
        return sum(len(clip.frames) for named in self.clips.values() for clip in named.values())

    def result(
        self, method: Method | Folder | str, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        """Return the result of a method; reuses a stored result with the same fingerprint.

        Args:
            method: the restorer or folder; or 'input' or 'sharp' for the unchanged clips.
            advance: called with the number of frames that were just finished.

        Returns:
            ``rows``, the scores of all frames with 'data', 'clip' and 'frame', and ``cost``; or
            ``failed``, the reason.
        """
        folder = self.folder(method)
        mark = self.marks[folder]
        result = _stored(folder / 'result.json', mark)
        if result is not None:
            advance(self.frames)
            return result
        files.empty_own(folder, 'compare')
        result = self._run(method, folder, advance)
        if 'failed' not in result:
            content = json.dumps(dict(result, fingerprint=mark), indent=1)
            files.write_whole(folder / 'result.json', content.encode())
        return result

    def _run(
        self, method: Method | Folder | str, folder: Path, advance: Callable[[int], None]
    ) -> dict[str, Any]:
        scoring: list[Future] = []

        def score(given: str, clip: str) -> None:
            found, frames = self.clips[given][clip], self.frame_files(method, given, clip)
            sources = self._sources(method, given, clip)
            scoring.append(self.pool.submit(score_one, given, found, frames, sources))

        cost: dict | None = None
        if isinstance(method, Method):
            cost = self._restore_apart(method, folder, advance, score)
            if 'failed' in cost:
                return cost
        else:
            for given, named in self.clips.items():
                for clip in named:
                    score(given, clip)
        rows: list[dict] = []
        for job in scoring:
            try:
                found = job.result()
            except (AssertionError, ValueError, OSError) as error:
                return dict(failed=f'cannot be scored: {_first_line(error)}')
            rows += found
            if not isinstance(method, Method):
                advance(len(found))
        if isinstance(method, Folder):
            cost = method.cost(self.clips)
        order = list(self.clips)
        rows.sort(key=lambda row: (order.index(row['data']), row['clip'], row['frame']))
        return dict(rows=rows, cost=cost)

    def _restore_apart(
        self,
        method: Method,
        folder: Path,
        advance: Callable[[int], None],
        score: Callable[[str, str], None],
    ) -> dict[str, Any]:
        """Restore in a separate process; return the cost, or the reason as 'failed'."""
        complete: list[list[str]] = []
        messages = self.context.Queue()
        child = self.context.Process(
            target=_restore,
            args=(method, self.data, folder, self.device, messages),
            daemon=True,
        )
        child.start()
        kind = ''
        while kind not in ('failed', 'cost'):
            alive = child.is_alive()  # checked before the queue, so that no last message is missed
            try:
                kind, *values = messages.get(timeout=1)
            except queue.Empty:
                if alive:
                    continue
                killed = ' (killed, perhaps out of memory)' if child.exitcode == -9 else ''
                return dict(failed=f'its process ended with code {child.exitcode}{killed}')
            if kind == 'frames':
                advance(*values)
            elif kind == 'clip' and self.device == 'cpu':
                complete.append(values)  # scoring it now would slow the measured restoring
            elif kind == 'clip':
                score(*values)
        child.join()
        if kind == 'failed':
            return dict(failed=values[0])
        for given, clip in complete:
            score(given, clip)
        return values[0]

    def folder(self, method: Method | Folder | str) -> Path:
        """Return the folder of a method, given itself or its name."""
        return self.out / 'methods' / (method if isinstance(method, str) else method.name)

    def frame_files(self, method: Method | Folder | str, given: str, clip: str) -> list[Path]:
        """Return the files of a method's frames of a clip; the method is given or its name."""
        frames = self.clips[given][clip].frames
        return [frame_file(self.folder(method), given, clip, frame) for frame in frames]

    def _sources(self, method: Method | Folder | str, given: str, clip: str) -> list[str] | None:
        """Return the places that frames are copied from; None for those restored here."""
        found = self.clips[given][clip]
        if isinstance(method, Folder):
            return self._outside[method.name, given, clip]
        if method in (INPUT, SHARP):
            return list(found.blurry if method == INPUT else found.sharp or ())
        return None

    def viewed(self, results: dict[str, dict]) -> list[ViewedClip]:
        """Return the clips for a page, with the frames and scores of the methods that finished."""
        main = main_score(results[INPUT]['rows'])
        scores = {
            (row['data'], row['clip'], row['frame'], method): row[main]
            for method, result in results.items()
            for row in result.get('rows', ())
        }
        methods = [method for method, result in results.items() if 'failed' not in result]
        return [
            ViewedClip(
                f'{given}: {clip.name}' if len(self.clips) > 1 else clip.name,
                clip.frames,
                {method: self.frame_files(method, given, clip.name) for method in methods},
                {m: [scores[given, clip.name, frame, m] for frame in clip.frames] for m in methods},
                *name_and_unit(main),
            )
            for given, named in self.clips.items()
            for clip in named.values()
        ]

    def draw_grids(self, rows: list[str], count: int) -> None:
        """Draw grids of some clips into ``grids/``.

        A grid shows the middle frame of a clip: the input, each method and, if there is one, the
        sharp frame, each with a crop of the region where the methods differ most.
        """
        from dblrgan_mm.engine.visualizer import compare_frames

        for given, named in self.clips.items():
            for clip in _spread(list(named.values()), count):
                middle = len(clip.frames) // 2
                paths = [self.frame_files(row, given, clip.name)[middle] for row in rows]
                frames = [clip_store.read_any(str(path)) for path in paths]
                restored = [i for i, row in enumerate(rows) if row not in (INPUT, SHARP)]
                differing = [frames[i] for i in restored] if len(restored) > 1 else frames[:2]
                change = largest_difference(differing)
                picture = compare_frames(frames, rows, zoom=4, change=change)
                path = self.out / 'grids' / f'{given}_{clip.name.replace("/", "_")}.png'
                write_png(path, picture)

    def _source(self) -> list[Any]:
        """Return what every result depends on: the frames, by size and time of their files."""
        parts: list[Any] = [[vars(given) for given in self.data]]
        parts.append(lpips_weights().is_file())
        for named in self.clips.values():
            for clip in named.values():
                sources = {place.partition('#')[0] if clip_store.is_place(place) else place
                           for place in (*clip.blurry, *(clip.sharp or ()))}  # fmt: skip
                states = [_state(source) for source in sorted(sources)]
                parts.append((clip.name, clip.frames, states))
        return parts

    def _mark(self, method: Method | Folder | str, source: list[Any]) -> str:
        """Return a digest of what a result depends on: source, config, checkpoint and device."""
        parts = list(source)
        if not isinstance(method, Method):
            parts.append(_COPIED)
        if isinstance(method, Folder):
            parts.append(method.cost(self.clips))
            for (name, *_), places in self._outside.items():
                parts += map(_state, places) if name == method.name else ()
        if isinstance(method, Method):
            try:
                config = read_config_file(method.config, import_custom_modules=False)
            except UserError:
                raise
            except Exception as error:  # a config is Python code and may raise anything
                raise UserError(f'{method.config}: {_first_line(error)}') from error
            parts += [self.device, config.to_dict()]
            parts.append(method.checkpoint and files.sha256(Path(method.checkpoint)))
        text = json.dumps(parts, default=str, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _state(path: str) -> tuple[int, int]:
    """Return the size and time of a file, to detect changes."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _prepare_scoring() -> None:
    """Initialise a scoring process: one thread, as the processes share the CPU cores."""
    _end_with_parent()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """End this process when its parent dies, even if the parent was killed."""
    parent = mp.parent_process()
    if parent is None:  # this is the main process
        return

    def wait() -> None:
        mp.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split('\n')[0] or 'no message'
    return text if isinstance(error, UserError) else f'{type(error).__name__}: {text[:200]}'


def _restore(method: Method, data: list[Clips], folder: Path, device: str, messages: Any) -> None:
    """Restore with a method; runs in its own process and reports by ``messages``."""
    _end_with_parent()

    def tell(*message: Any) -> None:
        messages.put(message)

    try:
        tell('cost', restore(method, data, folder, device, tell))
    except Exception as error:  # any error of a third-party network becomes its row
        tell('failed', _first_line(error))


def score_one(
    given: str, clip: Clip, frames: list[Path], sources: list[str] | None
) -> list[dict[str, Any]]:
    """Return the scores of a clip's restored frames, which are copied from ``sources`` if given."""
    from dblrgan_mm.comparison.scores import score_clip, score_unpaired_clip

    if sources is not None:
        for source, frame in zip(sources, frames, strict=True):
            _copy_frame(source, frame)
    score = score_unpaired_clip if clip.sharp is None else score_clip
    reference = map(clip_store.read_any, clip.sharp or clip.blurry)
    scores = score((clip_store.read_any(str(frame)) for frame in frames), reference)
    return [
        dict(data=given, clip=clip.name, frame=frame, **found)
        for frame, found in zip(clip.frames, scores, strict=True)
    ]


def _copy_frame(source: str, target: Path) -> None:
    """Copy a frame to a PNG file; its pixels do not change."""
    if source.endswith('.png') and not clip_store.is_place(source):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    else:
        write_png(target, clip_store.read_any(source))


def _spread(clips: list[Clip], count: int) -> list[Clip]:
    """Return at most ``count`` clips, spread evenly over the list."""
    count = min(count, len(clips))
    return [clips[round(i * (len(clips) - 1) / max(1, count - 1))] for i in range(count)]


def _stored(path: Path, mark: str) -> dict | None:
    """Return the stored result of an earlier run if its fingerprint matches."""
    try:
        result = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return result if result.pop('fingerprint', None) == mark else None
