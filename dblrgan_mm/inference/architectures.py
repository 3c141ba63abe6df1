"""Registry of supported generators: identify one by its weights and build it for inference."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dblrgan_mm.inference.networks.multiscale_network import StripMultiScaleDBLRNet
from dblrgan_mm.inference.networks.strip_network import StripDBLRNet, StripNetwork
from dblrgan_mm.nn import DBLRNet, MultiScaleDBLRNet
from dblrgan_mm.nn.alignment import PATH

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A type of generator.

    Attributes:
        marker: name of a weight that no other type has.
        infer: maps the weights to the arguments that can be derived from their shapes; raises
            ValueError.
        generator: the generator's class.
        network: builds the inference network from weights, arguments and a dtype.
        residual: whether the generator has an argument ``residual``, which cannot be derived from
            shapes.
    """

    marker: str
    infer: Callable[[Weights], dict[str, Any]]
    generator: type[nn.Module]
    network: Callable[[Weights, Mapping[str, Any], torch.dtype], StripNetwork]
    residual: bool = False


def find_architecture(names: Mapping[str, Any], prefix: str = '') -> str | None:
    """Return the type of the generator whose weights have these names after ``prefix``, or None."""
    found = (kind for kind, known in ARCHITECTURES.items() if f'{prefix}{known.marker}' in names)
    return next(found, None)


def infer_architecture(state_dict: Weights) -> dict[str, Any]:
    """Derive a generator's type and arguments, except ``residual``, from the shapes of its weights.

    Raises:
        ValueError: a weight is missing or unknown, or its shape contradicts the others.
    """
    kind = find_architecture(state_dict)
    if kind is None:
        raise ValueError(f'{MARKERS} is missing')
    arguments = ARCHITECTURES[kind].infer(state_dict)
    with torch.device('meta'):  # shapes without memory
        expected = ARCHITECTURES[kind].generator(**arguments).state_dict()
    for key, weight in expected.items():
        if key.endswith('num_batches_tracked'):
            continue
        shape = tuple(weight.shape)
        if _shape(state_dict, key, len(shape)) != shape:
            raise ValueError(f'{key} has shape {tuple(state_dict[key].shape)}, expected {shape}')
        if not state_dict[key].is_floating_point():
            raise ValueError(f'{key} has dtype {state_dict[key].dtype}, expected floating point')
    unknown = [key for key in state_dict if key not in expected]
    if unknown:
        raise ValueError(f'{unknown[0]} is unknown')
    return dict(type=kind, **arguments)


def build_network(
    state_dict: Weights, architecture: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> StripNetwork:
    """Build the inference network of a generator.

    Args:
        state_dict: weights of the generator.
        architecture: type and arguments of the generator.
        dtype: dtype of the convolutions.

    Raises:
        UserError: the dtype is int8 and the network does not support it.
    """
    return ARCHITECTURES[architecture['type']].network(state_dict, architecture, dtype)


def _infer_dblrnet(state_dict: Weights) -> dict[str, Any]:
    t1, t2 = (_shape(state_dict, f'head.{i}.weight', 5)[2] for i in (0, 2))
    channels = _shape(state_dict, 'head.0.weight', 5)[1]
    mid = _shape(state_dict, 'head.2.weight', 5)[0]
    frames = t1 + t2 - 1
    if (
        channels not in (1, 3)
        or frames % 2 == 0
        or t1 not in (min(3, frames), frames)
        or mid < 4
        or mid % 4
    ):
        raise ValueError(
            f'{channels} channel(s), {frames} frames and {mid} maps do not fit DBLRNet'
        )
    blocks = _count(state_dict, 'body', 'residual blocks')
    norm = 'BN' if any('.norm' in key for key in state_dict) else None

    return dict(
        num_frames=frames,
        color='luma' if channels == 1 else 'rgb',
        mid_channels=mid,
        num_blocks=blocks,
        norm=norm,
        fusion='early' if t1 > 3 else 'slow',
    )


def _infer_multiscale(state_dict: Weights) -> dict[str, Any]:
    first, colors, frames = _shape(state_dict, 'head.weight', 5)[:3]
    align = 'alignment' in state_dict
    if align and not torch.equal(state_dict['alignment'].float(), torch.tensor(PATH)):
        raise ValueError('they were trained with another version of align_frames')
    if align and frames > 1:
        frames -= len(PATH)
    if colors not in (1, 3) or frames < 1 or frames % 2 == 0:
        raise ValueError(f'{colors} channel(s) and {frames} frames do not fit MultiScaleDBLRNet')
    coarsest = _count(state_dict, 'down', 'scales')
    channels = (first, *(_shape(state_dict, f'down.{i}.weight', 4)[0] for i in range(coarsest)))
    scales = range(coarsest)
    names = [*(f'encoders.{i}' for i in scales), 'body']
    names += [f'decoders.{i}' for i in reversed(scales)]
    num_blocks = tuple(_count(state_dict, name, f'blocks of {name}') for name in names)

    return dict(
        num_frames=frames,
        color='luma' if colors == 1 else 'rgb',
        channels=channels,
        num_blocks=num_blocks,
        align=align,
    )


ARCHITECTURES = {
    'DBLRNet': Architecture('head.0.weight', _infer_dblrnet, DBLRNet, StripDBLRNet, residual=True),
    'MultiScaleDBLRNet': Architecture(
        'down.0.weight', _infer_multiscale, MultiScaleDBLRNet, StripMultiScaleDBLRNet
    ),
}
TYPES = ' or '.join(ARCHITECTURES)
MARKERS = ' or '.join(known.marker for known in ARCHITECTURES.values())


def _count(state_dict: Weights, name: str, what: str) -> int:
    """Count the numbered submodules of ``name``; raise ValueError if a number is missing."""
    pattern = re.compile(rf'{re.escape(name)}\.(\d{{1,6}})\.')
    numbers = {int(m[1]) for key in state_dict if (m := pattern.match(key))}
    count = max(numbers, default=-1) + 1
    if count > len(numbers):
        raise ValueError(f'some of the {count} {what} are missing')
    return count


def _shape(state_dict: Weights, key: str, axes: int) -> tuple[int, ...]:
    if key not in state_dict:
        raise ValueError(f'{key} is missing')
    shape = tuple(state_dict[key].shape)
    if len(shape) != axes:
        raise ValueError(f'{key} has shape {shape}, expected {axes} axes')
    return shape
