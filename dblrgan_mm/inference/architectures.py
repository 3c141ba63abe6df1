"""Registry of supported generators: identify one by its weights and build it for inference."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dblrgan_mm.inference.multiscale_network import StripMultiScaleDBLRNet
from dblrgan_mm.inference.strip_network import StripDBLRNet, StripNetwork

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Architecture:
    """A type of generator.

    Attributes:
        marker: name of a weight that no other type has.
        infer: maps the weights to the arguments that can be derived from their shapes, and to the
            expected shape of each weight; raises ValueError.
        network: builds the inference network from weights, arguments and a dtype.
        residual: whether the generator has an argument ``residual``, which cannot be derived from
            shapes.
    """

    marker: str
    infer: Callable[[Weights], tuple[dict[str, Any], dict[str, tuple[int, ...]]]]
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
    arguments, shapes = ARCHITECTURES[kind].infer(state_dict)
    for key, shape in shapes.items():
        if _shape(state_dict, key, len(shape)) != shape:
            raise ValueError(f'{key} has shape {tuple(state_dict[key].shape)}, expected {shape}')
        if not state_dict[key].is_floating_point():
            raise ValueError(f'{key} has dtype {state_dict[key].dtype}, expected floating point')
    unknown = [k for k in state_dict if k not in shapes and not k.endswith('num_batches_tracked')]
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


def _infer_dblrnet(state_dict: Weights) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
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

    wide = 4 * mid
    convs = {'head.0': (mid // 4, channels, t1, 3, 3), 'head.2': (mid, mid // 4, t2, 3, 3)}
    convs |= _block_shapes('body', blocks, mid)
    for name, shape in zip((0, 2, 4), ((wide, mid), (wide, wide), (channels, wide)), strict=True):
        convs[f'tail.{name}'] = (*shape, 3, 3)
    shapes = _with_bias(convs)
    if norm:
        for name in [f'body.{i}.norm{k}' for i in range(blocks) for k in (1, 2)]:
            keys = ('weight', 'bias', 'running_mean', 'running_var')
            shapes |= {f'{name}.{key}': (mid,) for key in keys}
    arguments = dict(
        num_frames=frames,
        color='luma' if channels == 1 else 'rgb',
        mid_channels=mid,
        num_blocks=blocks,
        norm=norm,
        fusion='early' if t1 > 3 else 'slow',
    )
    return arguments, shapes


def _infer_multiscale(state_dict: Weights) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    first, colors, frames = _shape(state_dict, 'head.weight', 5)[:3]
    if colors not in (1, 3) or frames % 2 == 0:
        raise ValueError(f'{colors} channel(s) and {frames} frames do not fit MultiScaleDBLRNet')
    coarsest = _count(state_dict, 'down', 'scales')
    channels = (first, *(_shape(state_dict, f'down.{i}.weight', 4)[0] for i in range(coarsest)))
    names = [*(f'encoders.{i}' for i in range(coarsest)), 'body']
    num_blocks = tuple(_count(state_dict, name, f'blocks of {name}') for name in names)

    convs = {'head': (first, colors, frames, 3, 3), 'tail': (colors, first, 3, 3)}
    for name, count, maps in zip(names, num_blocks, channels, strict=True):
        convs |= _block_shapes(name, count, maps)
        if name != 'body':
            convs |= _block_shapes(name.replace('encoders', 'decoders'), count, maps)
    steps = list(enumerate(zip(channels[1:], channels[:-1], strict=True)))
    convs |= {f'down.{i}': (coarse, fine, 2, 2) for i, (coarse, fine) in steps}
    shapes = _with_bias(convs)
    for i, (coarse, fine) in steps:  # a transposed convolution's weight is (c_in, c_out, kh, kw)
        shapes |= {f'up.{i}.weight': (coarse, fine, 2, 2), f'up.{i}.bias': (fine,)}
    arguments = dict(
        num_frames=frames,
        color='luma' if colors == 1 else 'rgb',
        channels=channels,
        num_blocks=num_blocks,
    )
    return arguments, shapes


ARCHITECTURES = {
    'DBLRNet': Architecture('head.0.weight', _infer_dblrnet, StripDBLRNet, residual=True),
    'MultiScaleDBLRNet': Architecture('down.0.weight', _infer_multiscale, StripMultiScaleDBLRNet),
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


def _block_shapes(name: str, count: int, maps: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of residual blocks."""
    return {f'{name}.{i}.conv{k}': (maps, maps, 3, 3) for i in range(count) for k in (1, 2)}


def _with_bias(convs: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of weights and biases of convolutions, given those of the weights."""
    shapes = {f'{name}.weight': shape for name, shape in convs.items()}
    return shapes | {f'{name}.bias': shape[:1] for name, shape in convs.items()}


def _shape(state_dict: Weights, key: str, axes: int) -> tuple[int, ...]:
    if key not in state_dict:
        raise ValueError(f'{key} is missing')
    shape = tuple(state_dict[key].shape)
    if len(shape) != axes:
        raise ValueError(f'{key} has shape {shape}, expected {axes} axes')
    return shape
