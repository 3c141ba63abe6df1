"""Networks for inference: every layer a 2D convolution, computed strip by strip."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.int8 import Int8Conv, dead_leaves, has_int8
from dblrgan_mm.inference.layers import Conv, luma, over_time, unit_range

# what strips keep for the one below: rows of the inputs of 3x3 convolutions, and others
State = tuple[list[torch.Tensor], list[Any]]

_INT8_LOSS = 0.1  # of what a network changes; below half a grey level of 255 it does not matter


class StripNetwork(nn.Module):
    """A trained network that restores windows of any size in bounded memory.

    The frame passes the layers in strips of full width from top to bottom, and every layer keeps
    the last rows that it saw for the next strip. Nothing is computed twice, as it would be with
    overlapping tiles, and the maps of a strip fit into a processor's cache. Ours.

    A network has the methods :meth:`whole` and :meth:`step`, and says how far it looks.

    Args:
        num_frames: frames in a window.
        color: 'luma' or 'rgb', what enters and leaves the layers.
        dtype: of the convolutions; frames, luma and the result are float32.

    Attributes:
        halo: how many rows of input a row of the result needs below it, at most.
        multiple: rows and columns are padded to a multiple of it, by replication.
        row_step: strips with a multiple of so many rows are fastest.
        bytes_a_pixel: of the input of the layer that takes most memory.
        int8: whether layers compute in 8-bit integers.
    """

    halo: int
    bytes_a_pixel: int
    multiple = 1
    row_step = 6
    int8 = False

    def __init__(self, num_frames: int, color: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.color = color
        self.dtype = torch.float32 if dtype == torch.int8 else dtype

    def forward(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating in [0, 1].
            tile: rows of a strip; the result depends on it by rounding alone. None: all at once.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.
        """
        height, width = windows.shape[-2:]
        centre = windows[:, self.num_frames // 2]
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
        """Frames (n, t, 3, h, w) to the network's input (n, t or 3 t, h, w), perhaps padded."""
        frames = luma(windows) if self.color == 'luma' else unit_range(windows)
        frames = self.prepare(frames.flatten(1, 2))
        return frames.to(self.dtype, memory_format=torch.channels_last)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """What the first layer takes, of frames (n, t or 3 t, h, w) in [0, 1]."""
        return frames

    def join(self, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Put the network's output and the blurry centre frame (n, 3, h, w) together."""
        raise NotImplementedError

    def whole(self, maps: torch.Tensor) -> torch.Tensor:
        """The network's input (n, t or 3 t, h, w) through all layers at once."""
        raise NotImplementedError

    def step(
        self, rows: torch.Tensor, state: State | None, last: bool
    ) -> tuple[torch.Tensor, State]:
        """One strip through all layers.

        Args:
            rows: the network's input, the next rows from the top.
            state: what this method returned for the strip above; None at the top.
            last: whether these rows reach the bottom.

        Returns:
            The result's next rows, at most :attr:`halo` behind the input, and the new state.
        """
        raise NotImplementedError


class Strip:
    """A strip of rows on its way through a network: what each layer keeps of the strip above.

    The input of a 3x3 convolution is one tensor: the two rows kept of the strip above (at the top
    of the frame one row of zeros), then the new rows, which the layer before writes there. Below
    the bottom of the frame lies a row of zeros.

    Args:
        state: :attr:`after` of the strip above; None at the top.
        last: whether the strip reaches the bottom.

    Attributes:
        top: rows above the new ones in the input of a 3x3 convolution.
        after: what is kept for the strip below.
    """

    def __init__(self, state: State | None, last: bool) -> None:
        nothing = itertools.repeat(None)
        self._rows, self._held = (nothing, nothing) if state is None else map(iter, state)
        self.top = 1 if state is None else 2
        self.last = last
        self.after: State = ([], [])

    def open(
        self, layer: Conv | Int8Conv, like: torch.Tensor, count: int, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The input of a 3x3 convolution, and in it the place of its ``count`` new rows."""
        shape = (len(like), layer.c_in, self.top + count + self.last, width)
        maps = torch.empty(
            shape, dtype=layer.takes, device=like.device, memory_format=torch.channels_last
        )
        kept = next(self._rows)
        maps[:, :, : self.top] = 0 if kept is None else kept
        maps[:, :, self.top + count :] = 0
        return maps, maps[:, :, self.top : self.top + count]

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """The new rows in the input of a convolution."""
        return maps[:, :, self.top : maps.shape[2] - self.last]

    def keep(self, maps: torch.Tensor) -> None:
        """Keep of the input of the 3x3 convolution opened last what the strip below needs."""
        self.after[0].append(maps[:, :, -2:].clone(memory_format=torch.channels_last))

    def held(self) -> Any:
        """What was given to :meth:`hold` for the strip above, in that order; None at the top."""
        return next(self._held)

    def hold(self, value: Any) -> None:
        """Keep other rows for the strip below."""
        self.after[1].append(value)

    def through(
        self,
        layer: Conv | Int8Conv,
        maps: torch.Tensor,
        following: Conv | Int8Conv | None,
        plus: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The input of the following layer: what this one gives, after ReLU or an addition.

        Without a following layer: the rows alone.
        """
        self.keep(maps)
        count, width = maps.shape[2] - 2, maps.shape[3]
        if following is None:
            onward = place = torch.empty_like(plus, memory_format=torch.channels_last)
        else:
            onward, place = self.open(following, maps, count, width)
        layer.into(place, maps, plus, following)
        return onward

    def blocks(
        self,
        blocks: Sequence[Sequence[Conv | Int8Conv]],
        maps: torch.Tensor,
        following: Conv | Int8Conv | None,
    ) -> torch.Tensor:
        """The input of the following layer, by residual blocks from the input of the first one."""
        for i, (first, second) in enumerate(blocks):
            block = maps
            maps = self.through(first, maps, second)
            # two rows behind the block's input, which therefore has them all
            begin, count = 2 - self.top, maps.shape[2] - 2
            onward = blocks[i + 1][0] if i + 1 < len(blocks) else following
            maps = self.through(second, maps, onward, block[:, :, begin : begin + count])
        return maps


class StripDBLRNet(StripNetwork):
    """A trained DBLRNet that restores windows of any size in bounded memory.

    It computes what ``DBLRNet`` computes, in evaluation mode, from the same weights:

    - batch normalisation is folded into the convolution before it;
    - the 3D convolutions of the first two layers, which have no temporal padding, are written as
      2D convolutions over all frames' channels at once;
    - on a CPU in float32 the layers but the first are matrix products, with fewer multiplications
      from 48 maps on (``winograd``);
    - in int8 the layers but the first take 8-bit integers (``int8``), their ranges as an image of
      dead leaves gives them; what is added up over the blocks stays in float32.

    Putting it so is ours.

    Args:
        state_dict: a ``DBLRNet``'s.
        architecture: that network's arguments: num_frames, color, residual.
        dtype: of the convolutions; frames, luma and the result are float32. int8 needs a CPU with
            VNNI.

    Raises:
        UserError: in int8: the CPU has no VNNI, or the network loses too much or gives no finite
            numbers.

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
        self.head = nn.ModuleList()
        for name in ('head.0', 'head.2'):
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            frames = frames - weight.shape[2] + 1
            self.head.append(Conv(*over_time(weight, bias, frames), self.dtype, products))
        blocks = 1 + max(
            (int(key.split('.')[1]) for key in state_dict if key.startswith('body.')), default=-1
        )
        self.body = nn.ModuleList(
            nn.ModuleList(conv(f'body.{i}.conv{k}', norm=f'body.{i}.norm{k}') for k in (1, 2))
            for i in range(blocks)
        )
        self.tail = nn.ModuleList(conv(f'tail.{i}') for i in (0, 2, 4))
        if dtype == torch.int8:
            self._quantize()

    @torch.no_grad()
    def _quantize(self) -> None:
        """Go over to 8-bit integers."""
        if not has_int8():
            raise UserError(
                'int8 needs an x86 processor with VNNI, and torch 2.10 or later; take float32'
            )
        image = torch.from_numpy(dead_leaves()).permute(2, 0, 1)
        window = image.expand(1, self.num_frames, *image.shape)
        ranges: dict[nn.Module, tuple[float, float]] = {}

        def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            ranges[layer] = (inputs[0].min().item(), inputs[0].max().item())

        hooks = [
            layer.register_forward_pre_hook(note)
            for layer in self.modules()
            if isinstance(layer, Conv)
        ]
        expected = self(window)
        for hook in hooks:
            hook.remove()
        if not expected.isfinite().all():
            # integers would hide it from now on
            raise UserError(
                'the network gives values that are no finite numbers: its weights are damaged, or '
                'too large; give another checkpoint'
            )

        def integer(layer: Conv, takes: torch.dtype) -> Int8Conv:
            return Int8Conv(layer.weight, layer.bias, *ranges[layer], takes)

        self.head[1] = integer(self.head[1], torch.uint8)
        for block in self.body:
            block[0] = integer(block[0], torch.float32)
            block[1] = integer(block[1], torch.uint8)
        for i, takes in enumerate((torch.float32, torch.uint8, torch.uint8)):
            self.tail[i] = integer(self.tail[i], takes)
        self.int8 = True
        change, error = (
            255 * (given - expected).square().mean().sqrt().item()
            for given in (unit_range(image), self(window))
        )
        if not error < max(0.5, _INT8_LOSS * change):
            raise UserError(
                f'in int8 this network errs by {error:.2f} of 255 (root mean square) where it '
                f'changes an image by {change:.2f}; take float32'
            )

    @property
    def halo(self) -> int:
        """Rows that the result lags behind the input: one a 3x3 convolution."""
        return len(self.head) + 2 * len(self.body) + len(self.tail)

    @property
    def bytes_a_pixel(self) -> int:
        """Of the input of the layer that takes most."""
        layers = (m for m in self.modules() if isinstance(m, (Conv, Int8Conv)))
        return max(layer.c_in * layer.takes.itemsize for layer in layers)

    def join(self, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Put the network's output and the blurry centre frame (n, 3, h, w) together."""
        if self.residual:
            return centre + out
        return out if self.color == 'rgb' else centre + (out - luma(centre))

    def whole(self, maps: torch.Tensor) -> torch.Tensor:
        """The network's input (n, t or 3 t, h, w) through all layers at once."""
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
        """One strip through all layers; the result lags :attr:`halo` rows behind."""
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
    """Rows [begin, end) of each strip of input; the first is longer, as the result lags behind."""
    ends = [*range(tile + halo, height, tile), height]
    return list(zip([0, *ends[:-1]], ends, strict=True))
