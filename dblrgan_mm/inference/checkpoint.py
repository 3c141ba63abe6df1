"""Checkpoints of generators: what they hold, and writing ones that say what they are."""

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
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.architectures import (
    ARCHITECTURES,
    MARKERS,
    TYPES,
    build_network,
    find_architecture,
    infer_architecture,
)

_TAG = re.compile(r'-([0-9a-f]{8})$')  # ends the name of a published file, as torch.hub has it


@dataclass
class Generator:
    """A trained generator.

    Attributes:
        architecture: its type, 'DBLRNet' or 'MultiScaleDBLRNet', and that class's arguments.
        state_dict: its weights, on the CPU.
        averaged: whether the weights are a training's moving average (EMA).
        meta: what the checkpoint says of itself, empty where it says nothing.
    """

    architecture: dict[str, Any]
    state_dict: dict[str, torch.Tensor]
    averaged: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


def load_generator(path: str | Path) -> Generator:
    """Read the generator from a published file, a training's checkpoint or a bare state dict.

    Nothing in the file is executed: it is read with ``weights_only=True``. The architecture is
    taken from the weights' names and shapes. ``residual`` of a DBLRNet, which has no shape, is
    taken from the description in a published file, from the config in a training's checkpoint, or
    from what the network does to a uniform grey clip.

    Raises:
        UserError: the file is missing, no checkpoint, damaged, would run code, or holds no
            known generator; says which.
    """
    path = Path(path)
    content = read_content(path)
    try:
        return _interpret(content, path)
    except (RuntimeError, MemoryError) as error:  # sizes too large, unheard-of kinds of tensors
        raise UserError(
            f'{path}: its weights cannot be used, it is damaged or no checkpoint of {TYPES}; give '
            'another one'
        ) from error


def _interpret(content: dict, path: Path) -> Generator:
    """The generator in the content of a file; what :func:`load_generator` does after reading."""
    meta = _meta(content)
    stored = content.get('state_dict', content)
    if not isinstance(stored, dict):
        raise UserError(f'{path}: its state_dict is no dictionary of weights')
    state_dict, averaged = _generator_weights(stored)
    # MMEngine's EMAHook stores the average in the place of the weights, and these beside it
    averaged = averaged or 'ema_state_dict' in content
    if not state_dict:
        raise UserError(
            f'{path}: holds no {TYPES} (no {MARKERS} among its {len(stored)} entries); give a '
            f'checkpoint of {TYPES}, or of DBLRGAN'
        )
    try:
        architecture = infer_architecture(state_dict)
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f'{path}: its weights are not those of a whole {find_architecture(state_dict)}: '
            f'{error}; give a checkpoint of {TYPES}, or of DBLRGAN'
        ) from error
    for name, weight in state_dict.items():
        if not weight.isfinite().all():
            raise UserError(
                f'{path}: {name} holds values that are no finite numbers: the training diverged, '
                'or the file is damaged; take another checkpoint'
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
    """Write a generator with its description.

    The weights' names begin with 'generator.', so that the file also serves as ``load_from`` or
    checkpoint of a test, and as ``init_cfg=dict(type='Pretrained', prefix='generator.', ...)``.

    Args:
        generator: as loaded.
        target: the file's name, to which the first 8 digits of its SHA-256 are added.
        training_data: what it was trained on.
        metric: what it reached, on what.
        **meta: further plain values for the description.

    Returns:
        The file, '<stem>-<8 hexadecimal digits>.pth'.

    Raises:
        UserError: there is such a file already.
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
    # into memory first: torch tells a full disk, or one without permission, by no OSError
    buffer = io.BytesIO()
    torch.save(dict(meta=description, state_dict=weights), buffer)
    content = buffer.getvalue()
    final = target.with_name(f'{target.stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth')
    if os.path.lexists(final):
        same = final.is_file() and final.read_bytes() == content
        raise UserError(
            f'{final} exists already, '
            + ('with the same content: nothing to do' if same else 'with other content: remove it')
        )
    files.write_whole(final, content)
    return final


def read_content(path: Path) -> dict:
    """The content of a file written by ``torch.save``, without executing anything in it.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, or would run code; says which.
    """
    if not os.path.isfile(path):
        raise UserError(
            f'{path} is a folder; give the file in it'
            if os.path.isdir(path)
            else f'no checkpoint {path}; check the path'
        )
    try:
        tag = _TAG.search(path.stem)
        found = sha256(path) if tag else ''
        content = _load(path)
    except OSError as error:
        if error.errno == errno.EINVAL:  # torch seeks to before the beginning of a file cut off
            raise UserError(f'{path}: not a checkpoint, or damaged; give another one') from error
        raise UserError(f'{path}: cannot be read ({error.strerror or error})') from error
    except MemoryError as error:
        raise UserError(f'{path}: does not fit into memory, or is damaged') from error
    except pickle.UnpicklingError as error:
        names = re.findall(r'GLOBAL (\w+(?:\.\w+)+)', str(error))
        if names or 'unrecognized function' in str(error):
            raise UserError(
                f'{path}: refused, nothing in it was run: it asks to run code'
                + (f' ({names[0]})' if names else '')
                + '; a checkpoint needs weights and plain values alone'
            ) from error
        raise UserError(f'{path}: not a checkpoint, or damaged; give another one') from error
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f'{path}: not a checkpoint, or damaged; give another one') from error
    # other files may end in a date
    if tag and not found.startswith(tag[1]) and 'dblrgan_mm_version' in _meta(content):
        raise UserError(
            f'{path}: is damaged: its SHA-256 begins with {found[:8]}, not with the {tag[1]} of '
            'its name; copy it again'
        )
    if not isinstance(content, dict):
        raise UserError(
            f'{path}: holds a {type(content).__name__}, not the weights of a network; give a '
            f'checkpoint of {TYPES}, or of DBLRGAN'
        )
    return content


def _meta(content: Any) -> dict[str, Any]:
    """What a checkpoint says of itself."""
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch does not look at the checksums
                raise UserError(f'{path}: is damaged: its checksums do not fit; copy it again')

    def load() -> Any:
        # mapped: the optimiser's part of a training's checkpoint takes no memory
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


def sha256(path: Path) -> str:
    """Of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _generator_weights(stored: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], bool]:
    """The generator's weights, of its moving average where there is one; {} if there are none."""
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
    """``residual`` of the DBLRNet in the text of an MMEngine config; None if it is not there.

    The text is parsed, not run.
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
    """Whether a network predicts a difference: that of a uniform grey clip is near 0, not 0.5."""
    network = build_network(state_dict, dict(architecture, residual=True))
    with torch.inference_mode():
        out = network(torch.full((1, network.num_frames, 3, 33, 33), 0.5))
    return bool(out.mean() - 0.5 < 0.25)
