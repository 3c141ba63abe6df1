"""Writing that another process, a full disk or a kill cannot turn into half a result."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from dblrgan_mm.errors import UserError


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, for this process alone.

    The lock is the operating system's, on ``folder/.lock``: it ends with the process, however that
    ends.

    Raises:
        UserError: if another process holds the folder, or it cannot be written to.
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
        raise UserError(
            f'cannot write to {folder.resolve()} ({error.strerror or error}); choose another folder'
        ) from error
    try:
        yield
    finally:
        lock.release()


def require_space(folder: Path, needed: int) -> None:
    """Raise :class:`UserError` unless the disk of ``folder`` has ``needed`` bytes to spare."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f'{needed / 1e6:,.0f} MB are needed in {folder.resolve()}, and its disk has '
            f'{free / 1e6:,.0f} MB free: make room, or choose a folder on another disk'
        )


GO_ON = (
    'What is finished there is whole and stays; make room and run the same command again to go on'
)


@contextlib.contextmanager
def disk_full_told(folder: Path, what_now: str = GO_ON) -> Iterator[None]:
    """Turn the error of a full disk into a :class:`UserError` that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f'the disk of {folder.resolve()} is full. {what_now}') from error


@contextlib.contextmanager
def write_faults_told(target: Path, what_now: str) -> Iterator[None]:
    """The same, and any other error of the operating system, for a command that writes a target."""
    try:
        with disk_full_told(target.parent, what_now):
            yield
    except OSError as error:
        raise UserError(
            f'{error.filename or target}: {error.strerror or error}; {target} was not written'
        ) from error


def write_whole(final: Path, content: bytes) -> None:
    """Write a file that has its name only when it is whole; an ``OSError`` leaves none, or the old.

    The part is beside it under the name with '.part' until then.
    """
    part = final.with_name(f'{final.name}.part')
    try:
        part.write_bytes(content)
        put_in_place(part, final)
    except OSError:
        with contextlib.suppress(OSError):  # which would hide the first error
            part.unlink(missing_ok=True)
        raise


def put_in_place(part: Path, final: Path) -> None:
    """Give a finished file its name; even after a power cut what has the name is whole."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    part.replace(final)
