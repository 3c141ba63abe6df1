"""Load generators from checkpoints, and publish them with a description."""

import ast
import errno
import hashlib
import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dblrgan_mm import __version__, files
from dblrgan_mm.errors import UnsafeCheckpointError, UserError
from dblrgan_mm.inference.architectures import (
    ARCHITECTURES,
    MARKERS,
    TYPES,
    build_network,
    find_architecture,
    infer_architecture,
)

_TAG = re.compile(r'-([0-9a-f]{8})$')  # end of a published file's name, the convention of torch.hub


@dataclass
class Generator:
    """A trained generator.

    Attributes:
        architecture: type, 'DBLRNet' or 'MultiScaleDBLRNet', and the arguments of that class.
        state_dict: weights, on the CPU.
        averaged: whether the weights are the moving average (EMA) of a training.
        meta: description stored in the checkpoint; empty if there is none.
    """

    architecture: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    averaged: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


def load_generator(path: str | Path) -> Generator:
    """Load a generator from a published file, a training checkpoint or a bare state dict.

    The file is read with ``weights_only=True``, so nothing in it is executed. The architecture is
    derived from the names and shapes of the weights. The argument ``residual`` of a DBLRNet, which
    cannot be derived from shapes, is taken from the description in a published file, from the
    config in a training checkpoint, or from the network's output for a uniform grey clip.

    Raises:
        UserError: the file is missing, not a checkpoint, or damaged, would run code, or contains
            no known generator. The message says which.
    """
    path = Path(path)
    content = read_content(path)
    try:
        return _interpret(content, path)
    except (RuntimeError, MemoryError) as error:  # sizes too large, unknown kinds of tensors
        raise UserError(
            f'{path}: its weights cannot be used: the file is damaged or not a checkpoint of '
            f'{TYPES}; use another file'
        ) from error


def _interpret(content: dict, path: Path) -> Generator:
    """Build the generator from the content of a file, as described in :func:`load_generator`."""
    meta = _meta(content)
    stored = content.get('state_dict', content)
    if not isinstance(stored, dict):
        raise UserError(f'{path}: its state_dict is not a dictionary of weights')
    state_dict, averaged = _generator_weights(stored)
    # MMEngine's EMAHook stores the average as state_dict and the weights as ema_state_dict
    averaged = averaged or 'ema_state_dict' in content
    if not state_dict:
        raise UserError(
            f'{path}: contains no {TYPES} (no {MARKERS} among its {len(stored)} entries); use a '
            f'checkpoint of {TYPES}, or of DBLRGAN'
        )
    try:
        architecture = infer_architecture(state_dict)
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f'{path}: its weights do not form a valid {find_architecture(state_dict)}: '
            f'{error}; use a checkpoint of {TYPES}, or of DBLRGAN'
        ) from error
    for name, weight in state_dict.items():
        if not weight.isfinite().all():
            raise UserError(
                f'{path}: {name} has NaN or infinite values: the training diverged, or the file is '
                'damaged; use another checkpoint'
            )
    described = meta.get('architecture')
    has_residual = ARCHITECTURES[architecture['type']].residual
    if described is None:
        if has_residual:
            residual = _residual_in_config(meta.get('cfg'))
            residual = _is_residual(state_dict, architecture) if residual is None else residual
            architecture['residual'] = residual
    else:
        if not isinstance(described, dict) or (
            has_residual and not isinstance(described.get('residual'), bool)
        ):
            raise UserError(f'{path}: its description of the architecture cannot be read')
        if has_residual:
            architecture['residual'] = described['residual']
        averaged = averaged or meta.get('averaged') is True
    return Generator(architecture, state_dict, averaged, meta)


def publish(
    generator: Generator, target: Path, training_data: str, metric: str, **meta: Any
) -> Path:
    """Write a generator with its description to a file.

    The names of the weights begin with 'generator.', so that the file can also be used as
    ``load_from``, as the checkpoint of a test, and in
    ``init_cfg=dict(type='Pretrained', prefix='generator.', ...)``.

    Args:
        generator: generator as returned by :func:`load_generator`.
        target: path of the file; the first 8 hex digits of its SHA-256 are added to the name.
        training_data: what the generator was trained on.
        metric: the score it reached, and on which data.
        **meta: further plain values for the description.

    Returns:
        Path of the written file, '<stem>-<8 hex digits>.pth'.

    Raises:
        UserError: the file already exists.
    """
    description = dict(
        architecture=generator.architecture,
        training_data=training_data,
        metric=metric,
        averaged=generator.averaged,
        dblrgan_mm_version=__version__,
        **meta,
    )
    weights = {
        f'generator.{k}': v.detach().contiguous().clone() for k, v in generator.state_dict.items()
    }
    # Serialise to memory first: torch does not raise OSError for a full or write-protected disk.
    buffer = io.BytesIO()
    torch.save(dict(meta=description, state_dict=weights), buffer)
    content = buffer.getvalue()
    final = target.with_name(f'{target.stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth')
    if os.path.lexists(final):
        same = final.is_file() and final.read_bytes() == content
        raise UserError(
            f'{final} already exists with '
            + ('the same content; nothing to do' if same else 'different content; remove it first')
        )
    files.write_whole(final, content)
    return final


def read_content(path: Path) -> dict:
    """Read a file written by ``torch.save`` without executing anything in it.

    Raises:
        UserError: the file is missing, damaged, or not a checkpoint. The message says which.
        UnsafeCheckpointError: the file would run code.
    """
    if not os.path.isfile(path):
        here = '' if path.is_absolute() else f' in {Path.cwd()}'
        raise UserError(
            f'{path} is a folder; give the path of the checkpoint file'
            if os.path.isdir(path)
            else f'no checkpoint {path}{here}; check the path'
        )
    try:
        tag = _TAG.search(path.stem)
        found = files.sha256(path) if tag else ''
        content = _load(path)
    except OSError as error:
        if error.errno == errno.EINVAL:  # in a truncated file, torch seeks to before its beginning
            raise UserError(f'{path}: not a checkpoint, or damaged; use another file') from error
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except MemoryError as error:
        raise UserError(f'{path}: too large for the memory, or damaged') from error
    except pickle.UnpicklingError as error:
        names = re.findall(r'GLOBAL (\w+(?:\.\w+)+)', str(error))
        if names or 'unrecognized function' in str(error):
            raise UnsafeCheckpointError(
                f'{path}: refused because it would run code'
                + (f' ({names[0]})' if names else '')
                + '; nothing in it was executed. A checkpoint may contain only weights and plain '
                'values'
            ) from error
        raise UserError(f'{path}: not a checkpoint, or damaged; use another file') from error
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f'{path}: not a checkpoint, or damaged; use another file') from error
    # only published files are checked: 8 digits at the end of another name may be a date
    if tag and not found.startswith(tag[1]) and 'dblrgan_mm_version' in _meta(content):
        raise UserError(
            f'{path}: is damaged: its SHA-256 begins with {found[:8]}, but its name says '
            f'{tag[1]}; copy it again'
        )
    if not isinstance(content, dict):
        raise UserError(
            f'{path}: contains a {type(content).__name__}, not the weights of a network; use a '
            f'checkpoint of {TYPES}, or of DBLRGAN'
        )
    return content


def _meta(content: Any) -> dict[str, Any]:
    """Return the description stored in a checkpoint, or {}."""
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not verify the checksums
                raise UserError(f'{path}: is damaged: its checksums do not match; copy it again')

    def load() -> Any:
        # memory-mapped, so that the optimiser state in a training checkpoint takes no memory
        return torch.load(
            path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path)
        )

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return load()
        except pickle.UnpicklingError as error:
            if 'HistoryBuffer' not in str(error):
                raise
        from dblrgan_mm import compat

        compat.safe_globals()
        return load()


def _generator_weights(stored: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], bool]:
    """Return the generator's weights, and whether they are its moving average.

    The moving average is preferred if it has been updated. Returns {} if no generator is found.
    """
    steps = stored.get('generator_ema.steps')
    averaged = isinstance(steps, torch.Tensor) and steps.numel() == 1 and steps.item() != 0
    prefixes = ['generator_ema.module.'] * averaged + ['generator.module.', 'generator.', 'module.']
    named = {k: v for k, v in stored.items() if isinstance(k, str)}
    for prefix in (*prefixes, ''):
        if find_architecture(named, prefix) is not None:
            found = {k[len(prefix) :]: v for k, v in named.items() if k.startswith(prefix)}
            if all(isinstance(value, torch.Tensor) for value in found.values()):
                return found, prefix.startswith('generator_ema')
    return {}, False


def _residual_in_config(config: Any) -> bool | None:
    """Read ``residual`` of the DBLRNet from the text of an MMEngine config.

    Returns None if the config has no DBLRNet as generator. The text is parsed, not executed.
    """
    try:
        tree = ast.parse(config) if isinstance(config, str) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.keyword) and node.arg == 'generator':
            given = {k.arg: k.value for k in getattr(node.value, 'keywords', ())}
            kind, residual = given.get('type'), given.get('residual')
            if isinstance(kind, ast.Constant) and kind.value == 'DBLRNet':
                return isinstance(residual, ast.Constant) and residual.value is True
    return None


def _is_residual(state_dict: Mapping[str, torch.Tensor], architecture: Mapping[str, Any]) -> bool:
    """Return whether a network predicts a difference to the centre frame.

    For a uniform grey clip of value 0.5, such a network outputs about 0 instead of 0.5.
    """
    network = build_network(state_dict, dict(architecture, residual=True))
    with torch.inference_mode():
        out = network(torch.full((1, network.num_frames, 3, 33, 33), 0.5))
    return bool(out.mean() - 0.5 < 0.25)
