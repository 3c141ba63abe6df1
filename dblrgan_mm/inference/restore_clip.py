"""Restore a clip from file to file: decoding, restoring and encoding overlap in threads."""

import contextlib
import itertools
import json
import logging
import queue
import shutil
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dblrgan_mm import files
from dblrgan_mm.clips.frames import IMAGE_SUFFIXES
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.deblurrer import Deblurrer
from dblrgan_mm.inference.video_io import (
    CONTAINERS,
    ClipFrame,
    ImageClip,
    ImageParts,
    VideoClip,
    VideoParts,
    choose_encoding,
    doubled,
    is_video_name,
    open_clip,
    read_settings,
)

logger = logging.getLogger('dblrgan_mm')

Item = TypeVar('Item')


@dataclass
class Options:
    """What is to be done with a clip.

    Attributes:
        start: first frame that is restored.
        end: the frame after the last one; None: all.
        side_by_side: put the blurry frame to the left of the restored one.
        codec, crf: of a video, as in ``choose_encoding``.
        fps: frames per second of images that become a video.
    """

    start: int = 0
    end: int | None = None
    side_by_side: bool = False
    codec: str | None = None
    crf: int | None = None
    fps: Fraction = Fraction(25)


def restore_clip(
    source: Path,
    target: Path,
    deblurrer: Deblurrer,
    options: Options | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[int | None, int], Any] = lambda total, done: lambda: None,
) -> tuple[int, list[str]]:
    """Restore a video, a folder of images or an image.

    What is finished is kept in '<target>.part' beside the target until the whole is there; then it
    takes the target's name.

    Args:
        source: anything that FFmpeg reads as a video, a folder of images, or an image.
        target: .mp4, .mkv, .mov; an image; or a folder.
        deblurrer: restores the frames.
        options: see :class:`Options`.
        overwrite: whether the target, and an unfinished run's frames, may be replaced.
        resume: go on where an unfinished run stopped.
        progress: called with the frames to come in all (None: unknown) and those that are there;
            gives what is called after each frame.

    Returns:
        The number of frames in the target, and the faults of the source, one sentence each.

    Raises:
        UserError: anything of these cannot be; says what and where.
    """
    options = options or Options()
    check_target(source, target, overwrite)
    clip = open_clip(source, options.fps)
    given = clip.format
    _warn(source, clip)
    if options.end is not None and options.end <= options.start:
        raise UserError(f'--end {options.end} must be above --start {options.start}')
    if 0 < clip.frames <= options.start:
        raise UserError(f'{source}: has {clip.frames} frames, none from --start {options.start} on')

    shown = doubled(given) if options.side_by_side else given
    settings = dict(
        source=[str(source.resolve()), source.stat().st_size, source.stat().st_mtime_ns],
        images=clip.identity() if isinstance(clip, ImageClip) else None,
        target=target.suffix,
        start=options.start,
        end=options.end,
        side_by_side=options.side_by_side,
        fps=str(options.fps),
        network=deblurrer.identity,
    )
    encoding = None
    if target.suffix.lower() in CONTAINERS:
        encoding = choose_encoding(target, shown, options.codec, options.crf)
        settings |= dict(codec=encoding.codec, pixels=encoding.pixels, options=encoding.options)

    part = target.with_name(target.name + '.part')
    with (
        files.write_faults_told(
            target, 'What is finished stays; make room, and the same command with --resume goes on'
        ),
        files.sole_writer(part),
    ):
        check_target(source, target, overwrite)  # again: now no other process makes it
        _prepare(part, settings, overwrite, resume)
        parts = ImageParts(part) if encoding is None else VideoParts(part, shown, encoding)
        done = parts.finished()
        total = None
        if clip.frames:
            last = min(clip.frames, options.end or clip.frames)
            total = max(done, last - options.start)
        step = progress(total, done)
        frames = restored_frames(clip, deblurrer, options, done)
        with contextlib.closing(in_thread(frames)) as frames:
            for count in parts.write(frames):
                step()
                done += count
        if done == 0:
            raise UserError(f'{source}: has no frame from --start {options.start} on')
        if encoding is None:
            parts.finish(target)
        else:
            cut = options.start > 0 or options.end is not None
            video = isinstance(clip, VideoClip)
            left_out = parts.finish(
                target, source if video else None, cut, clip.last_duration if video else None
            )
            if left_out:
                logger.warning('%s: left out %s', source, ', '.join(left_out))
        _empty(part)
    with contextlib.suppress(OSError):  # another process has just begun there
        (part / '.lock').unlink()
        part.rmdir()
    return done, clip.faults


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Raise UserError unless ``target`` can be written, before anything long begins."""
    suffix = target.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        if source.is_dir() or is_video_name(source):
            raise UserError(f'{target}: a clip does not fit into one image; give a folder')
        if suffix not in ('.png', '.jpg', '.jpeg'):
            raise UserError(f'{target}: images are written as .png or .jpg')
    elif suffix not in CONTAINERS and (is_video_name(target) or target.is_file()):
        raise UserError(
            f'{target}: videos are written as {", ".join(CONTAINERS)}; choose one of these, or a '
            'folder for images'
        )
    if target.exists() and target.resolve() == source.resolve():
        raise UserError(f'{target}: is the input; give another output')
    if target.resolve() in source.resolve().parents:
        raise UserError(f'{target}: is the folder that the input is in; give another output')
    if target.is_symlink() and target.is_dir():
        raise UserError(f'{target}: is a link to a folder; give that folder')
    if source.is_dir() and source.resolve() in target.resolve().parents:
        raise UserError(f'{target}: lies in the input; give an output outside of it')
    if target.is_dir() and suffix in (*CONTAINERS, *IMAGE_SUFFIXES):
        raise UserError(f'{target}: is a folder; give another output')
    if target.exists() and not overwrite:
        raise UserError(f'{target}: exists; --overwrite replaces it')
    if target.is_dir() and any(p.suffix.lower() not in IMAGE_SUFFIXES for p in target.iterdir()):
        raise UserError(f'{target}: holds other things than images; give another output')
    if not target.parent.is_dir():
        raise UserError(f'{target}: the folder {target.parent} does not exist; make it first')


def _warn(source: Path, clip: Any) -> None:
    if clip.format.alpha:
        logger.warning('%s: its transparency is left out', source)
    if clip.format.interlaced:
        logger.warning(
            '%s: is interlaced, which the network was not trained for: de-interlace it first',
            source,
        )


def _prepare(part: Path, settings: dict[str, Any], overwrite: bool, resume: bool) -> None:
    """Make the folder of unfinished work ready: as it was left, or empty."""
    before = read_settings(part)
    if not before and any(p.name not in ('.lock', 'settings.part') for p in part.iterdir()):
        raise UserError(f'{part}: is no unfinished run of this command; rename or remove it')
    begun = any(part.glob('*.nut')) or any(part.glob('frames/*.png'))
    if begun and resume:
        differ = [key for key in settings if before.get(key) != settings[key]]
        if differ:
            raise UserError(
                f'{part}: cannot go on: {" and ".join(differ)} of the unfinished run differ from '
                "this one's; give the same arguments, or --overwrite to begin anew"
            )
        return
    if begun and not overwrite:
        raise UserError(
            f'{part}: holds the frames of an unfinished run; --resume goes on, --overwrite begins '
            'anew'
        )
    _empty(part)
    new = part / 'settings.part'
    new.write_text(json.dumps(settings), encoding='utf-8')
    files.put_in_place(new, part / 'settings.json')


def _empty(part: Path) -> None:
    """Remove what is in a folder that is locked; last what says that it is an unfinished run."""
    for path in sorted(part.iterdir(), key=lambda path: path.name == 'settings.json'):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != '.lock':
            path.unlink()


def restored_frames(
    clip: VideoClip | ImageClip, deblurrer: Deblurrer, options: Options, done: int = 0
) -> Iterator[ClipFrame]:
    """The restored frames of a clip from ``options.start + done`` on.

    Frames before and after what is restored serve as its neighbours.
    """
    reach = deblurrer.network.num_frames // 2
    first = options.start + done
    begin = max(0, first - reach)
    stop = None if options.end is None else options.end + reach
    waiting: deque[ClipFrame] = deque()

    def needed() -> Iterator[ClipFrame]:
        with contextlib.closing(iter(clip)) as frames:
            yield from itertools.islice(frames, begin, stop)

    def images(frames: Iterable[ClipFrame]) -> Iterator[np.ndarray]:
        for frame in frames:
            waiting.append(frame)
            yield frame.image

    if options.end is not None and first >= options.end:
        return
    # closed here, not when they are collected: no thread and no decoder may outlive the run
    with contextlib.closing(in_thread(needed())) as frames:
        for number, image in enumerate(deblurrer(images(frames)), begin):
            frame = waiting.popleft()
            if number < first:
                continue
            if options.side_by_side:
                image = np.concatenate([frame.image, image], axis=1)
            yield replace(frame, image=image)
            if number + 1 == options.end:
                return


def in_thread(items: Iterable[Item], ahead: int = 2) -> Generator[Item, None, None]:
    """Yield items that a thread of their own takes from an iterable, a few ahead."""
    buffer: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(kind: str, value: Any = None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                buffer.put((kind, value), timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put('item', item)
                if stopped.is_set():
                    return
            put('end')
        except BaseException as error:
            put('error', error)
        finally:
            close = getattr(items, 'close', None)  # of a generator, in the thread that runs it
            if close is not None:
                close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = buffer.get()
            if kind == 'end':
                return
            if kind == 'error':
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
