"""Videos to restore, one at a time, kept in a folder that survives a restart."""

import contextlib
import json
import logging
import queue
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dblrgan_mm import files
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.inference.preview import preview
from dblrgan_mm.inference.restore_clip import begun_dtype, read_settings, restore_clip
from dblrgan_mm.video.reading import VideoClip, open_clip
from dblrgan_mm.video.writing import CONTAINERS
from dblrgan_mm.viewer import write_page

logger = logging.getLogger('dblrgan_mm')

PREVIEW = 3  # frames
_CLEANING = 600  # seconds between two looks for old jobs
RESTING = ('ready', 'done', 'failed', 'cancelled')  # states without a pending task
_ID = re.compile('[0-9a-f]{16}')


@dataclass(frozen=True)
class Job:
    """A video and what has been done with it.

    Attributes:
        id: name of its folder.
        name: name of the uploaded file, for display.
        suffix: suffix of the source in its folder.
        weights: the weights to use.
        created: when it was uploaded, in seconds since 1970.
        state: 'waiting' or 'running' if ``task`` is to be done; 'ready' after the preview; 'done',
            'failed' or 'cancelled'.
        task: 'preview' or 'restore'.
        message: for the user, such as why it failed, or how long restoring takes.
        previewed: whether there is a preview.
        frames, finished: number of frames of the task, and of those that are finished.
        seconds_left: estimated time until the task is finished; None if unknown.
        queued: when the task was queued, in seconds since 1970.
    """

    id: str
    name: str
    suffix: str
    weights: str
    created: float
    state: str = 'waiting'
    task: str = 'preview'
    message: str = ''
    previewed: bool = False
    frames: int = 0
    finished: int = 0
    seconds_left: float | None = None
    queued: float = 0.0


class CancelledError(Exception):
    """The user cancelled the task."""


class Jobs:
    """Previews and restores videos one after another, in a thread.

    Each job has a folder with ``job.json``, the source, the preview and the result. Tasks that a
    restart interrupted are resumed.

    Args:
        folder: folder of the jobs; must be empty or made by this class.
        load: returns the network for a name of weights and a dtype.
        keep: seconds after which a job is removed.

    Raises:
        UserError: the folder has other files.
    """

    def __init__(self, folder: Path, load: Callable[[str, str], Deblurrer], keep: float) -> None:
        self.folder = folder
        self.keep = keep
        self._load = load
        self._loaded: tuple[tuple[str, str], Deblurrer] | None = None
        self._jobs: dict[str, Job] = {}
        self._cancelled: set[str] = set()
        self._lock = threading.RLock()
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._closed = False
        mark = folder / 'made_by_serve'
        if not mark.exists() and any(path.name != '.lock' for path in folder.iterdir()):
            raise UserError(f'{folder}: has other files; choose an empty folder')
        mark.touch()
        for path in folder.glob('*.part'):  # uploads that were cut off
            if _ID.fullmatch(path.stem) and path.is_file():
                path.unlink()
        self._read()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        """Read the jobs of an earlier run, and queue those that it did not finish."""
        for folder in filter(lambda path: _ID.fullmatch(path.name), self.folder.iterdir()):
            path = folder / 'job.json'
            if not path.is_file():  # stopped while it was added
                shutil.rmtree(folder)
                continue
            try:
                job = Job(**json.loads(path.read_text(encoding='utf-8')))
            except (ValueError, TypeError):
                logger.warning('%s: cannot be read; this job is left out', path)
                continue
            self._jobs[job.id] = job
        for job in sorted(self.all(), key=lambda job: job.queued):
            if job.state not in RESTING:
                self._queue.put(job.id)

    def close(self) -> None:
        """Stop; a task that runs is resumed by the next run."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: (job.created, job.id))

    def get(self, key: str) -> Job:
        """Return a job; raises KeyError."""
        with self._lock:
            return self._jobs[key]

    def source(self, job: Job) -> Path:
        return self.folder / job.id / f'source{job.suffix}'

    def result(self, job: Job) -> Path:
        suffix = job.suffix if job.suffix in CONTAINERS else '.mkv'  # holds most kinds of streams
        return self.folder / job.id / f'restored{suffix}'

    def preview(self, job: Job) -> Path:
        return self.folder / job.id / 'preview'

    def new_upload(self) -> Path:
        """Return the path of a file for a new upload, for :meth:`add`."""
        return self.folder / f'{secrets.token_hex(8)}.part'

    def add(self, upload: Path, name: str, weights: str) -> Job:
        """Take an uploaded file, and queue its preview.

        Raises:
            UserError: the file is not a video.
        """
        shown = re.split(r'[/\\]', name)[-1][:200] or 'video'
        suffix = Path(shown).suffix.lower()
        suffix = suffix if re.fullmatch(r'\.[a-z0-9]{1,5}', suffix) else '.mp4'
        now = time.time()
        job = Job(upload.stem, shown, suffix, weights, created=now, queued=now)
        folder, source = self.folder / job.id, self.source(job)
        try:
            folder.mkdir()
            upload.rename(source)
            if not isinstance(open_clip(source), VideoClip):
                raise UserError(f'{source}: an image; give a video')
            with self._lock:
                self._store(job)
                self._queue.put(job.id)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, UserError):
                raise UserError(str(error).replace(str(source), shown)) from error
            raise
        return job

    def start(self, key: str, task: str, weights: str) -> None:
        """Queue a task of a job; raises UserError if it is not idle, or already restored."""
        with self._lock:
            job = self.get(key)
            if job.state not in RESTING:
                raise UserError(f'{job.name}: is already being restored; cancel that first')
            if job.state == 'done':
                raise UserError(f'{job.name}: is already restored; upload it again')
            begun: dict[str, Any] = dict(
                state='waiting', message='', finished=0, queued=time.time()
            )
            self._change(key, task=task, weights=weights, **begun)
            self._queue.put(key)

    def cancel(self, key: str) -> None:
        """Cancel the task of a job, if it has one."""
        with self._lock:
            job = self.get(key)
            if job.state == 'waiting':
                self._change(key, state='cancelled', message='cancelled')
            elif job.state == 'running':
                self._cancelled.add(key)

    def remove(self, key: str) -> None:
        """Remove a job with its files; raises UserError while it runs."""
        with self._lock:
            job = self.get(key)
            if job.state == 'running':
                raise UserError(f'{job.name}: is being restored; cancel that first')
            del self._jobs[key]
            shutil.rmtree(self.folder / key)

    def clean(self) -> None:
        """Remove jobs that are older than ``keep``."""
        with self._lock:
            for job in self.all():
                if job.state in RESTING and time.time() - job.created > self.keep:
                    self.remove(job.id)

    def _change(self, key: str, store: bool = True, **values: Any) -> None:
        with self._lock:
            job = replace(self._jobs[key], **values)
            if store:
                self._store(job)
            self._jobs[key] = job

    def _store(self, job: Job) -> None:
        """Write a job to its folder, then change it in memory; raises OSError."""
        content = json.dumps(asdict(job), indent=1)
        files.write_whole(self.folder / job.id / 'job.json', content.encode())
        self._jobs[job.id] = job

    def _work(self) -> None:
        while not self._closed:
            self.clean()
            try:
                key = self._queue.get(timeout=_CLEANING)
            except queue.Empty:
                continue
            if key is None:
                return
            with self._lock:
                job = self._jobs.get(key)
                if job is None or job.state != 'waiting':
                    continue
                self._cancelled.discard(key)
                self._change(key, store=False, state='running')
            try:
                self._run(job)
            except CancelledError:
                if not self._closed:
                    self._end(key, state='cancelled', message='cancelled')
            except Exception as error:
                if not isinstance(error, UserError):
                    logger.exception('%s', job.name)
                message = str(error) or type(error).__name__
                message = message.replace(str(self.source(job)), job.name)
                self._end(key, state='failed', message=message.replace(f'{self.folder}/', ''))

    def _end(self, key: str, **values: Any) -> None:
        """Store the last state of a task; on a full disk only this process knows it."""
        try:
            self._change(key, seconds_left=None, **values)
        except OSError:
            logger.exception('the state of a job cannot be stored')
            self._change(key, store=False, seconds_left=None, **values)

    def _run(self, job: Job) -> None:
        dtype = begun_dtype(self.result(job)) or 'auto'  # the fastest one is measured, and may vary
        if self._loaded is None or self._loaded[0] != (job.weights, dtype):
            self._loaded = None  # frees memory first
            self._loaded = (job.weights, dtype), self._load(job.weights, dtype)
        deblurrer = self._loaded[1]
        if job.task == 'preview':
            self._preview(job, deblurrer)
        else:
            self._restore(job, deblurrer)

    def _preview(self, job: Job, deblurrer: Deblurrer) -> None:
        folder = self.preview(job)
        self._change(job.id, previewed=False)
        shutil.rmtree(folder, ignore_errors=True)
        found = preview(
            self.source(job), folder, deblurrer, PREVIEW, progress=self._progress(job, PREVIEW, 0)
        )
        clip = replace(found.clip, name=job.name)
        write_page(folder / 'index.html', f'{job.name}, {job.weights}', [clip])
        self._end(job.id, state='ready', message=found.estimate, previewed=True)

    def _restore(self, job: Job, deblurrer: Deblurrer) -> None:
        target = self.result(job)
        part = target.with_name(f'{target.name}.part')
        if part.exists() and read_settings(part).get('network') != deblurrer.identity:
            shutil.rmtree(part)  # begun with other weights
        try:
            with _warnings() as warnings:
                count, faults = restore_clip(
                    self.source(job),
                    target,
                    deblurrer,
                    overwrite=True,
                    resume=part.exists(),
                    progress=lambda total, done: self._progress(job, total or 0, done),
                )
        except CancelledError:
            if not self._closed:
                shutil.rmtree(part, ignore_errors=True)
            raise
        except UserError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise UserError(
                f'cannot be written ({error.__cause__.strerror}); finished frames are kept: free '
                'some space, then restore the video again'
            ) from error
        message = '; '.join([f'{count} frames restored', *faults[:1], *warnings])
        message = message.replace(str(self.source(job)), job.name)
        self._end(job.id, state='done', message=message)

    def _progress(self, job: Job, total: int, done: int) -> Callable[[], None]:
        """Return a function that counts frames, and raises CancelledError if the user wants it."""
        begin, first = time.monotonic(), done
        self._change(job.id, store=False, frames=total, finished=done, seconds_left=None)

        def step() -> None:
            nonlocal done
            done += 1
            if job.id in self._cancelled or self._closed:
                raise CancelledError
            left = (time.monotonic() - begin) / (done - first) * max(0, total - done)
            seconds = left if total else None
            self._change(job.id, store=False, finished=done, seconds_left=seconds)

        return step


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the warnings that are logged in this block, such as streams that are not copied."""
    found: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
