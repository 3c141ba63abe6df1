"""Atomic writes, safe against concurrent processes, full disks and kills."""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dblrgan_mm.errors import UserError


@contextlib.contextmanager
def sole_writer(folder: Path, temporary: bool = False) -> Iterator[None]:
    """Lock a folder for this process, and create it if needed.

    The lock is an operating system lock on ``folder/.lock``. It is released when the process ends,
    even if it is killed. The file stays, because two processes could hold the lock if it were
    removed.

    Args:
        folder: folder to lock.
        temporary: whether to remove the folder on leaving without an error, unless it has files.

    Raises:
        UserError: if another process holds the lock, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / '.lock')
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f'another process is writing to {folder.resolve()}: wait for it, or choose another '
            'folder'
        ) from None
    except OSError as error:
        taken = isinstance(error, FileExistsError)
        reason = 'it is not a folder' if taken else error.strerror or error
        raise UserError(
            f'cannot write to {folder.resolve()} ({reason}); choose another folder'
        ) from error
    try:
        yield
        # before the release: after it, this may be the folder of another process
        if temporary and [path.name for path in folder.glob('*')] in ([], ['.lock']):
            with contextlib.suppress(OSError):
                (folder / '.lock').unlink()
                folder.rmdir()
    finally:
        lock.release()


def require_space(folder: Path, needed: int) -> None:
    """Raise :class:`UserError` unless the disk of ``folder`` has ``needed`` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f'{needed / 1e6:,.0f} MB are needed in {folder.resolve()}, but its disk has '
            f'{free / 1e6:,.0f} MB free: free some space, or choose a folder on another disk'
        )


CONTINUE = 'Finished files are kept; free some space and run the same command again to continue'


@contextlib.contextmanager
def report_full_disk(folder: Path, what_now: str = CONTINUE) -> Iterator[None]:
    """Turn the error of a full disk into a :class:`UserError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f'the disk of {folder.resolve()} is full. {what_now}') from error


@contextlib.contextmanager
def report_write_errors(target: Path, what_now: str) -> Iterator[None]:
    """Turn any ``OSError`` of a command that writes ``target`` into a :class:`UserError`."""
    try:
        with report_full_disk(target.parent, what_now):
            yield
    except OSError as error:
        raise UserError(
            f'{error.filename or target}: {error.strerror or error}; {target} was not written'
        ) from error


def require_folder(folder: Path, target: Path) -> None:
    """Raise :class:`UserError` unless the folder in which ``target`` will be written exists."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f'{target}: {folder} is not a folder; choose another output')
    if not folder.is_dir():
        raise UserError(f'{target}: the folder {folder} does not exist; create it first')


def empty_own(folder: Path, command: str) -> None:
    """Empty or create a folder of a command; raises UserError if it was made otherwise."""
    mark = folder / f'made_by_{command}'
    if folder.exists() and not mark.is_file():
        raise UserError(f'{folder} was not made by {command}; choose another output, or remove it')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mark.touch()


def write_whole(final: Path, content: bytes) -> None:
    """Write a file atomically; after an ``OSError`` the previous file, if any, is unchanged.

    The content is first written to a file next to it, whose name has the suffix '.part'. A link is
    followed.
    """
    final = resolve_link(final)
    part = final.with_name(f'{final.name}.part')
    try:
        part.write_bytes(content)
        put_in_place(part, final)
    except OSError:
        with contextlib.suppress(OSError):  # another error would hide the first one
            part.unlink(missing_ok=True)
        raise


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as a hex string, read from disk, not from the page cache."""
    with open(path, 'rb') as file:
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def put_in_place(part: Path, final: Path) -> None:
    """Rename a finished file to its final name, so that it is complete even after a power cut.

    If ``final`` is a link, its target is replaced.
    """
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(resolve_link(final))


def resolve_link(path: Path) -> Path:
    """Return the target of a link; return any other path unchanged."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path
