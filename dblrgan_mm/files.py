"""Writing that another process, a full disk or a kill cannot turn into half a result."""

import contextlib
import errno
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


@contextlib.contextmanager
def disk_full_told(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into a :class:`UserError` that says how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f'the disk of {folder.resolve()} is full. What is finished there is whole and stays; '
            'make room and run the same command again to go on'
        ) from error
