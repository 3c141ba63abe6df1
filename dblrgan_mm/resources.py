"""Find configs, scripts and pages: next to the package in a checkout, inside it in a wheel."""

import base64
import difflib
import hashlib
import importlib.metadata
import sys
import traceback
from pathlib import Path
from typing import Any

from dblrgan_mm.errors import LaunchError

PACKAGE = Path(__file__).parent
# MMagic and MIM use this folder, too
_INSTALLED = PACKAGE / '.mim'
ROOT = _INSTALLED if _INSTALLED.is_dir() else PACKAGE.parent


def locate(path: str) -> str:
    """Return where a file of the repository is, e.g. ``docs/gopro.md``, for messages.

    In a checkout this is the path itself.
    """
    return str(ROOT / path) if ROOT == _INSTALLED else path


def find_config(name: str) -> str:
    """Return the path of a config file, given as a path or by its name in the package.

    Args:
        name: a file, or a config of this package with or without ``configs/`` and ``.py``, e.g.
            ``dblrgan_gopro`` or ``small/dblrnet_ms``. A file takes precedence.

    Raises:
        LaunchError: if there is no such config; lists the names that are most similar.
    """
    folder = ROOT / 'configs'
    wanted = name.removeprefix('configs/').removesuffix('.py')
    found = Path(name) if Path(name).is_file() else folder / f'{wanted}.py'
    if found.is_file():
        if ROOT == _INSTALLED and found.resolve().is_relative_to(folder.resolve()):
            _warn_if_edited()
        return str(found)
    names = sorted(
        str(path.relative_to(folder).with_suffix(''))
        for path in folder.rglob('*.py')
        if '_base_' not in path.parts
    )
    near = difflib.get_close_matches(wanted, names, n=3)
    hint = f'did you mean {", ".join(near)}?' if near else f'the configs are in {folder}.'
    raise LaunchError(f'no config {name}: {hint}')


def read_config_file(path: str | Path, **kwargs: Any) -> Any:
    """Read a config file.

    Args:
        path: of the file.
        **kwargs: arguments of ``mmengine.Config.fromfile``.

    Raises:
        LaunchError: if the file or one that it inherits from is faulty.
    """
    from mmengine.config import Config

    try:
        return Config.fromfile(path, **kwargs)
    except Exception as error:  # a config is a program
        raise LaunchError(f'{path}: {_reason(error)}; correct the config') from error


def _reason(error: Exception) -> str:
    """Say in one line what is wrong with a config that could not be read."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f'no file {error.filename}'
    if isinstance(error, (OSError, SyntaxError)):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f'{type(error).__name__}: {error} (line {place.lineno} of {place.filename})'


def _warn_if_edited() -> None:
    """Warn about configs that were edited inside an installed wheel."""
    for file in importlib.metadata.files('dblrgan_mm') or ():
        path = Path(file.locate())
        config = file.as_posix().startswith('dblrgan_mm/.mim/configs/') and path.is_file()
        if not config or file.hash is None:  # compiled files have no hash
            continue
        digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b'=').decode() != file.hash.value:
            print(
                f'warning: {path} was edited inside the installed package; the next installation '
                'will overwrite it. Copy it to a folder of your own',
                file=sys.stderr,
            )
