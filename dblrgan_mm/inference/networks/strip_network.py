"""Inference networks of 2D convolutions, computed strip by strip."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.networks.int8 import Int8Conv, dead_leaves, has_int8
from dblrgan_mm.inference.networks.layers import Conv, over_time, unit_range
from dblrgan_mm.nn.color import unit_luma
from dblrgan_mm.nn.module_list import ModuleList

# what a strip keeps for the strip below: rows of the inputs of 3x3 convolutions, and other values
State = tuple[list[torch.Tensor], list[Any]]

Layer = Conv | Int8Conv
Blocks: TypeAlias = 'ModuleList[ModuleList[Layer]]'  # pairs of layers

# Largest accepted error of int8, relative to the change that the network makes. Errors below half a
# grey level of 255 are always accepted.
_INT8_LOSS = 0.1
_INT8_MOTION = 16.0  # of moving dead leaves that calibrate int8, in pixels per frame


class StripNetwork(nn.Module):
    """A trained network that restores windows of any size in bounded memory.

    The layers process a frame in strips of full width, from top to bottom. Each layer keeps the
    last rows of its input for the next strip. Unlike with overlapping tiles, nothing is computed
    twice, and the maps of a strip fit into the CPU's cache. The method is our own.

    Subclasses implement :meth:`join`, :meth:`whole` and :meth:`step`, and define :attr:`halo` and
    :attr:`bytes_per_pixel`.

    Args:
        num_frames: frames in a window.
        color: 'luma' or 'rgb', the colour channels that the layers process.
        dtype: dtype of the convolutions; frames, luma and the result are float32.

    Attributes:
        halo: number of input rows below a row that its result depends on, at most.
        multiple: rows and columns are padded to a multiple of this number, by replication.
        row_step: strips are fastest if their number of rows is a multiple of this number.
        bytes_per_pixel: bytes per pixel of the largest layer input.
        int8: whether layers compute in 8-bit integers.
        aligned: whether :meth:`align` needs whole frames.
    """

    multiple = 1
    row_step = 6
    int8 = False
    aligned = False

    def __init__(self, num_frames: int, color: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.color = color
        self.dtype = torch.float32 if dtype == torch.int8 else dtype

    def forward(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating point in [0, 1].
            tile: rows of a strip; affects the result only by rounding. None: all at once.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.
        """
        height, width = windows.shape[-2:]
        centre = windows[:, self.num_frames // 2]
        windows = self.align(windows)
        if (tile is None or tile >= height) and not self.int8:
            out = self.whole(self.network_input(windows))[..., :height, :width]
            return self.join(unit_range(centre), out.float())
        tile = -(-(tile or height) // self.multiple) * self.multiple
        restored = []
        state = None
        done = 0
        for begin, end in strips(height, tile, self.halo):
            rows = self.network_input(windows[..., begin:end, :])
            out, state = self.step(rows, state, end == height)
            here = centre[:, :, done : done + out.shape[2]]
            restored.append(self.join(unit_range(here), out[:, :, : here.shape[2], :width].float()))
            done += out.shape[2]
        return torch.cat(restored, dim=2)

    def network_input(self, windows: torch.Tensor) -> torch.Tensor:
        """Convert frames, as :meth:`align` returns them, to the network's input (n, c, h, w).

        The input may be padded at the right and the bottom, see :attr:`multiple`.
        """
        to_luma = self.color == 'luma' and windows.shape[2] == 3
        frames = unit_luma(windows) if to_luma else unit_range(windows)
        frames = self.prepare(frames.flatten(1, 2))
        return frames.to(self.dtype, memory_format=torch.channels_last)

    @property
    def halo(self) -> int:
        raise NotImplementedError

    @property
    def bytes_per_pixel(self) -> int:
        raise NotImplementedError

    def align(self, windows: torch.Tensor) -> torch.Tensor:
        """Align the frames of whole windows (n, t, 3, h, w).

        The result may be luma only, and have further frames that are derived from these.
        """
        return windows

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Preprocess frames (n, t or 3 t, h, w) in [0, 1] for the first layer."""
        return frames

    def join(self, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Combine the network's output with the blurry centre frame (n, 3, h, w)."""
        raise NotImplementedError

    def whole(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply all layers to the network's input (n, t or 3 t, h, w) at once."""
        raise NotImplementedError

    def step(
        self, rows: torch.Tensor, state: State | None, last: bool
    ) -> tuple[torch.Tensor, State]:
        """Apply all layers to one strip.

        Args:
            rows: rows of the network's input that follow those of the strip above.
            state: state that this method returned for the strip above; None for the first strip.
            last: whether these rows reach the bottom of the frame.

        Returns:
            The next rows of the result, which lag at most :attr:`halo` rows behind the input, and
            the new state.
        """
        raise NotImplementedError


class Strip:
    """One strip that passes through a network, with the rows that layers keep between strips.

    The input of a 3x3 convolution is one tensor: first the two rows kept from the strip above (for
    the first strip, one row of zeros), then the new rows, which the previous layer writes in
    place. For the last strip, a row of zeros follows.

    Args:
        state: :attr:`after` of the strip above; None for the first strip.
        last: whether the strip reaches the bottom of the frame.

    Attributes:
        top: rows above the new rows in the input of a 3x3 convolution.
        after: state for the strip below.
    """

    def __init__(self, state: State | None, last: bool) -> None:
        nothing = itertools.repeat(None)
        self._rows: Iterator[torch.Tensor | None] = nothing if state is None else iter(state[0])
        self._held: Iterator[Any] = nothing if state is None else iter(state[1])
        self.top = 1 if state is None else 2
        self.last = last
        self.after: State = ([], [])

    def open(
        self, layer: Conv | Int8Conv, like: torch.Tensor, count: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Allocate the input of a 3x3 convolution.

        Returns:
            The whole input, and a view of its ``count`` new rows, which the caller must fill.
        """
        shape = (len(like), layer.c_in, self.top + count + self.last, width)
        maps = torch.empty(
            shape, dtype=layer.takes, device=like.device, memory_format=torch.channels_last
        )
        kept = next(self._rows)
        maps[:, :, : self.top] = 0 if kept is None else kept
        maps[:, :, self.top + count :] = 0
        return maps, maps[:, :, self.top : self.top + count]

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the new rows in the input of a 3x3 convolution."""
        return maps[:, :, self.top : maps.shape[2] - self.last]

    def keep(self, maps: torch.Tensor) -> None:
        """Keep the last two rows of a 3x3 convolution's input for the strip below.

        Must be called in the order of :meth:`open`.
        """
        self.after[0].append(maps[:, :, -2:].clone(memory_format=torch.channels_last))

    def held(self) -> Any:
        """Return the next value that the strip above passed to :meth:`hold`.

        The values come in the order of those calls; all are None for the first strip.
        """
        return next(self._held)

    def hold(self, value: Any) -> None:
        """Keep another value for the strip below."""
        self.after[1].append(value)

    def through(
        self,
        layer: Conv | Int8Conv,
        maps: torch.Tensor,
        following: Conv | Int8Conv | None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Apply a layer, then add ``plus``, or else apply ReLU.

        Returns:
            The whole input of the following layer; only the new rows if ``following`` is None,
            which requires ``plus``.
        """
        self.keep(maps)
        count, width = maps.shape[2] - 2, maps.shape[3]
        if following is not None:
            onward, place = self.open(following, maps, count, width)
        elif plus is not None:
            onward = place = torch.empty_like(plus, memory_format=torch.channels_last)
        else:
            raise ValueError('a layer without a following one needs plus')
        layer.into(place, maps, plus, following)
        return onward

    def blocks(
        self,
        blocks: Blocks,
        maps: torch.Tensor,
        following: Conv | Int8Conv | None,
    ) -> torch.Tensor:
        """Apply residual blocks.

        Args:
            blocks: pairs of layers.
            maps: input of the first block.
            following: layer after the last block, or None.

        Returns:
            The whole input of the following layer; only the new rows if ``following`` is None.
        """
        for i, (first, second) in enumerate(blocks):
            block = maps
            maps = self.through(first, maps, second)
            # the result lags two rows behind the block's input, which has all rows to be added
            begin, count = 2 - self.top, maps.shape[2] - 2
            onward = blocks[i + 1][0] if i + 1 < len(blocks) else following
            maps = self.through(second, maps, onward, block[:, :, begin : begin + count])
        return maps


class StripDBLRNet(StripNetwork):
    """A trained DBLRNet that restores windows of any size in bounded memory.

    It computes the same function as ``DBLRNet`` in evaluation mode, from the same weights:

    - batch normalisation is folded into the preceding convolution;
    - the 3D convolutions of the first two layers, which have no temporal padding, become 2D
      convolutions over the channels of all frames;
    - in float32 on a CPU, layers with at least 48 input and output maps use Winograd's algorithm,
      and the last layer is a matrix product (``winograd``);
    - in int8, all layers but the first compute in 8-bit integers (``int8``), with ranges
      calibrated on dead leaves, still and moving; the running sum over the residual blocks stays
      in float32.

    This reformulation is our own.

    Args:
        state_dict: weights of a ``DBLRNet``.
        architecture: arguments of that network: num_frames, color, residual.
        dtype: dtype of the convolutions; frames, luma and the result are float32. int8 needs a CPU
            with VNNI.

    Raises:
        UserError: the dtype is int8, and the CPU has no VNNI, or the network loses too much
            accuracy or outputs NaN or infinite values.

    Example:
        >>> net = DBLRNet().eval()
        >>> architecture = dict(num_frames=5, color='luma', residual=False)
        >>> strips = StripDBLRNet(net.state_dict(), architecture)
        >>> strips(torch.zeros(1, 5, 3, 64, 48, dtype=torch.uint8)).shape
        torch.Size([1, 3, 64, 48])
    """

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor],
        architecture: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(architecture['num_frames'], architecture['color'], dtype)
        self.residual = architecture['residual']
        products = dtype == torch.float32

        def conv(name: str, norm: str | None = None) -> Conv:
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            if norm is not None and f'{norm}.weight' in state_dict:
                keys = ('running_mean', 'running_var', 'weight', 'bias')
                mean, var, scale, shift = (state_dict[f'{norm}.{key}'].float() for key in keys)
                weight, bias = fuse_conv_bn_weights(
                    weight.float(), bias.float(), mean, var, 1e-5, scale, shift
                )
            return Conv(weight, bias, self.dtype, products)

        frames = self.num_frames
        self.head: ModuleList[Layer] = ModuleList()
        for name in ('head.0', 'head.2'):
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            frames = frames - weight.shape[2] + 1
            self.head.append(Conv(*over_time(weight, bias, frames), self.dtype, products))
        blocks = 1 + max(
            (int(key.split('.')[1]) for key in state_dict if key.startswith('body.')), default=-1
        )
        self.body: Blocks = ModuleList(
            ModuleList(conv(f'body.{i}.conv{k}', norm=f'body.{i}.norm{k}') for k in (1, 2))
            for i in range(blocks)
        )
        self.tail: ModuleList[Layer] = ModuleList(conv(f'tail.{i}') for i in (0, 2, 4))
        if dtype == torch.int8:
            self._quantize()

    @torch.no_grad()
    def _quantize(self) -> None:
        """Calibrate the input ranges, and convert all layers but the first to 8-bit integers.

        The ranges are the smallest and largest inputs of each layer for windows of dead leaves.
        """
        if not has_int8():
            raise UserError('int8 needs an x86 CPU with VNNI, and torch 2.10 or later; use float32')
        ranges: dict[nn.Module, tuple[float, float]] = {}

        def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            low, high = ranges.get(layer, (0.0, 0.0))
            low, high = min(low, inputs[0].min().item()), max(high, inputs[0].max().item())
            ranges[layer] = low, high

        hooks = [
            layer.register_forward_pre_hook(note)
            for layer in self.modules()
            if isinstance(layer, Conv)
        ]
        calibrated = [self(self._leaves(motion, seed=0)) for motion in (0.0, _INT8_MOTION)]
        for hook in hooks:
            hook.remove()
        window = self._leaves(_INT8_MOTION, seed=1)
        exact = self(window)
        if not all(frame.isfinite().all() for frame in (*calibrated, exact)):
            # 8-bit integers cannot represent NaN, so it would be hidden afterwards
            raise UserError(
                'the network outputs NaN or infinite values: its weights are damaged or too large; '
                'use another checkpoint'
            )

        def integer(layer: Layer, takes: torch.dtype) -> Int8Conv:
            layer = cast(Conv, layer)  # each is converted once
            return Int8Conv(layer.weight, layer.bias, *ranges[layer], takes)

        self.head[1] = integer(self.head[1], torch.uint8)
        for block in self.body:
            block[0] = integer(block[0], torch.float32)
            block[1] = integer(block[1], torch.uint8)
        for i, takes in enumerate((torch.float32, torch.uint8, torch.uint8)):
            self.tail[i] = integer(self.tail[i], takes)
        self.int8 = True
        blurry = unit_range(window[:, self.num_frames // 2])
        change, error = (
            255 * (given - exact).square().mean().sqrt().item() for given in (blurry, self(window))
        )
        if not error < max(0.5, _INT8_LOSS * change):
            raise UserError(
                f'int8 is too inaccurate for this network: its error is {error:.2f} of 255 (root '
                f'mean square) where the network changes an image by {change:.2f}; use float32'
            )

    def _leaves(self, motion: float, seed: int) -> torch.Tensor:
        """Return a window (1, t, 3, h, w) of dead leaves."""
        images = dead_leaves(self.num_frames, motion, seed)
        return torch.from_numpy(images).permute(0, 3, 1, 2)[None]

    @property
    def halo(self) -> int:
        """Rows that the result lags behind the input: one per 3x3 convolution."""
        return len(self.head) + 2 * len(self.body) + len(self.tail)

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes per pixel of the largest layer input."""
        layers = (m for m in self.modules() if isinstance(m, (Conv, Int8Conv)))
        return max(layer.c_in * layer.takes.itemsize for layer in layers)

    def join(self, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        if self.residual:
            return centre + out
        return out if self.color == 'rgb' else centre + (out - unit_luma(centre))

    def whole(self, maps: torch.Tensor) -> torch.Tensor:
        for layer in self.head:
            maps = F.relu(layer(maps, padding=1))
        rows = maps
        for first, second in self.body:
            maps = maps + second(F.relu(first(maps, padding=1)), padding=1)
        maps = maps + rows
        for layer in self.tail[:-1]:
            maps = F.relu(layer(maps, padding=1))
        return self.tail[-1](maps, padding=1)

    def step(
        self, rows: torch.Tensor, state: State | None, last: bool
    ) -> tuple[torch.Tensor, State]:
        strip = Strip(state, last)
        first, second = self.head
        maps, place = strip.open(first, rows, rows.shape[2], rows.shape[3])
        place.copy_(rows)
        maps = strip.through(first, maps, second)
        onward = [*(block[0] for block in self.body), self.tail[0]][0]
        maps = strip.through(second, maps, onward)
        skipped = strip.rows(maps)
        maps = strip.blocks(self.body, maps, self.tail[0])
        held = strip.held()
        new = strip.rows(maps)
        skipped = skipped if held is None else torch.cat([held, skipped], dim=2)
        new.add_(skipped[:, :, : new.shape[2]])
        strip.hold(skipped[:, :, new.shape[2] :].clone(memory_format=torch.channels_last))
        for layer, following in itertools.pairwise(self.tail):
            maps = strip.through(layer, maps, following)
        strip.keep(maps)
        return self.tail[-1](maps), strip.after


def strips(height: int, tile: int, halo: int) -> list[tuple[int, int]]:
    """Return the rows [begin, end) of each input strip.

    The first strip is ``halo`` rows longer, because the result lags behind the input.
    """
    ends = [*range(tile + halo, height, tile), height]
    return list(zip([0, *ends[:-1]], ends, strict=True))
