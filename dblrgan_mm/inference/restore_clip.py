"""Restore a clip from file to file, with decoding, restoring and encoding in separate threads."""

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
from dblrgan_mm.video.decoding import is_media_name
from dblrgan_mm.video.reading import ClipFrame, ImageClip, VideoClip, open_clip
from dblrgan_mm.video.writing import CONTAINERS, ImageParts, VideoParts, choose_encoding

logger = logging.getLogger('dblrgan_mm')

Item = TypeVar('Item')


@dataclass
class Options:
    """What to restore of a clip, and how to write it.

    Attributes:
        start: first frame to restore.
        end: frame after the last one to restore; None: all.
        side_by_side: whether to write the blurry frame to the left of the restored frame.
        codec, crf: encoding of a video, see ``choose_encoding``.
        fps: frames per second of a video that is made from images.
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

    Finished frames are kept in '<target>.part' next to the target. The target gets its name only
    when it is complete. If the target is a link to a file, that file is written.

    Args:
        source: any video that FFmpeg can read, a folder of images, or an image.
        target: a .mp4, .mkv or .mov file, an image, or a folder.
        deblurrer: restores the frames.
        options: see :class:`Options`.
        overwrite: whether to replace an existing target and the frames of an unfinished run.
        resume: whether to resume an unfinished run.
        progress: called once with the total number of frames (None: unknown) and the number of
            frames that are already finished; returns a function that is called after each frame.

    Returns:
        The number of frames in the target, and the faults of the source, one sentence each.

    Raises:
        UserError: the source cannot be read, or the target cannot be written as requested.
    """
    options = options or Options()
    check_target(source, target, overwrite)
    clip = open_clip(source, options.fps)
    given = clip.format
    _warn(source, clip)
    if options.end is not None and options.end <= options.start:
        raise UserError(f'--end {options.end} must be greater than --start {options.start}')
    if 0 < clip.frames <= options.start:
        raise UserError(
            f'{source}: has only {clip.frames} frames, numbered from 0; --start {options.start} is '
            'too large'
        )

    shown = replace(given, width=2 * given.width) if options.side_by_side else given
    settings: dict[str, Any] = dict(
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

    place = files.resolve_link(target)
    part = place.with_name(place.name + '.part')
    with (
        files.report_write_errors(
            target,
            'Finished frames are kept; free some space, then run the same command with --resume',
        ),
        files.sole_writer(part, temporary=True),
    ):
        check_target(source, target, overwrite)  # again, now that other processes are locked out
        _prepare(part, settings, overwrite, resume)
        parts = ImageParts(part, shown) if encoding is None else VideoParts(part, shown, encoding)
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
            raise UserError(f'{source}: has no frame at or after --start {options.start}')
        video = source if isinstance(clip, VideoClip) else None
        if isinstance(parts, ImageParts):
            left_out = parts.finish(target, video)
        else:
            cut = options.start > 0 or options.end is not None
            duration = clip.last_duration if isinstance(clip, VideoClip) else None
            left_out = parts.finish(target, video, cut, duration)
        if left_out:
            logger.warning('%s: not copied: %s', source, '; '.join(left_out))
        _empty(part)
    return done, clip.faults


def check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Raise UserError unless ``target`` can be written, so that long runs fail early."""
    suffix = target.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        if source.is_dir() or source.suffix.lower() not in IMAGE_SUFFIXES:
            raise UserError(f'{target}: a clip cannot be written to one image; choose a folder')
        if suffix not in ('.png', '.jpg', '.jpeg'):
            raise UserError(f'{target}: images can only be written as .png or .jpg')
    elif suffix not in CONTAINERS and (target.is_file() or is_media_name(target)):
        raise UserError(
            f'{target}: videos can only be written as {", ".join(CONTAINERS)}; choose one of '
            'these, or a folder for images'
        )
    if target.exists() and target.resolve() == source.resolve():
        raise UserError(f'{target}: is the input; choose another output')
    if target.resolve() in source.resolve().parents:
        raise UserError(f'{target}: is the folder that contains the input; choose another output')
    if target.is_symlink() and target.is_dir():
        raise UserError(f'{target}: is a link to a folder; use that folder itself')
    if source.is_dir() and source.resolve() in target.resolve().parents:
        raise UserError(f'{target}: is inside the input; choose an output outside of it')
    if target.is_dir() and suffix in (*CONTAINERS, *IMAGE_SUFFIXES):
        raise UserError(f'{target}: is a folder; choose another output')
    if target.exists() and not overwrite:
        raise UserError(f'{target}: already exists; use --overwrite to replace it')
    if target.is_dir() and any(p.suffix.lower() not in IMAGE_SUFFIXES for p in target.iterdir()):
        raise UserError(f'{target}: contains files other than images; choose another output')
    files.require_folder(files.resolve_link(target).parent, target)


def _warn(source: Path, clip: Any) -> None:
    if clip.format.alpha:
        logger.warning('%s: transparency is ignored', source)
    if clip.format.interlaced:
        logger.warning(
            '%s: is interlaced, but the network was not trained on interlaced video; de-interlace '
            'it first',
            source,
        )


def _prepare(part: Path, settings: dict[str, Any], overwrite: bool, resume: bool) -> None:
    """Prepare the folder of the unfinished run: keep its content for a resume, else empty it."""
    before = read_settings(part)
    if not before and any(p.name not in ('.lock', 'settings.part') for p in part.iterdir()):
        raise UserError(f'{part}: is not an unfinished run of this command; rename or remove it')
    begun = any(part.glob('*.nut')) or any(part.glob('frames/*.png'))
    if begun and resume:
        differ = [key for key in settings if before.get(key) != settings[key]]
        if differ:
            raise UserError(
                f'{part}: cannot resume, because {" and ".join(differ)} changed since the '
                'unfinished run; use the same arguments, or --overwrite to start from scratch'
            )
        return
    if begun and not overwrite:
        raise UserError(
            f'{part}: contains the frames of an unfinished run; use --resume to continue it, or '
            '--overwrite to start from scratch'
        )
    _empty(part)
    new = part / 'settings.part'
    new.write_text(json.dumps(settings), encoding='utf-8')
    files.put_in_place(new, part / 'settings.json')


def _empty(part: Path) -> None:
    """Empty a locked folder; the file that marks it as an unfinished run is removed last."""
    for path in sorted(part.iterdir(), key=lambda path: path.name == 'settings.json'):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != '.lock':
            path.unlink()


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of the unfinished run in a folder; {} if there are none."""
    try:
        return json.loads((folder / 'settings.json').read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}


def begun_dtype(target: Path) -> str | None:
    """Return the dtype of the unfinished run for a target, e.g. 'bfloat16'; None if there is none.

    It is taken from the stored ``Deblurrer.identity``.
    """
    place = files.resolve_link(target)
    network = read_settings(place.with_name(place.name + '.part')).get('network', '')
    return network.partition(' torch.')[2] or None


def restored_frames(
    clip: VideoClip | ImageClip, deblurrer: Deblurrer, options: Options, done: int = 0
) -> Iterator[ClipFrame]:
    """Yield the restored frames of a clip from ``options.start + done`` on.

    Frames before and after the restored part are also read, as neighbours in its windows.
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
    # close explicitly, not on garbage collection, so that no thread or decoder outlives the run
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
    """Yield the items of an iterable that a separate thread reads, up to ``ahead`` in advance."""
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
            close = getattr(items, 'close', None)  # close a generator in the thread that runs it
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
