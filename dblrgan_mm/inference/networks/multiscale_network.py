"""MultiScaleDBLRNet for inference, computed strip by strip at all scales."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.networks.layers import Conv, over_time, unit_range
from dblrgan_mm.inference.networks.strip_network import Blocks, State, Strip, StripNetwork
from dblrgan_mm.nn.alignment import align_frames
from dblrgan_mm.nn.color import unit_luma
from dblrgan_mm.nn.module_list import ModuleList
from dblrgan_mm.nn.multiscale_dblrnet import INPUT_SCALE, MEAN, OUTPUT_SCALE, MultiScaleDBLRNet


class StripMultiScaleDBLRNet(StripNetwork):
    """A trained MultiScaleDBLRNet that restores windows of any size in bounded memory.

    It computes the same function as ``MultiScaleDBLRNet``, from the same weights:

    - the 3D convolution of the first layer becomes a 2D convolution over the channels of all
      frames, and the factors of the input and the output are folded into the first and the last
      layer;
    - frames are aligned as a whole, before the first strip;
    - all scales process a strip together. A skip connection holds its rows until the rows of the
      coarser scales have been computed.

    All layers are direct convolutions, except for the last one (``winograd.NarrowConv``):
    ``RowWinograd`` is not faster for 64 or 96 maps with few rows.

    The method is our own.

    Args:
        state_dict: weights of a ``MultiScaleDBLRNet``.
        architecture: arguments of that network: num_frames, color, channels, num_blocks, align.
        dtype: floating-point dtype of the convolutions; frames, luma and the result are float32.

    Raises:
        UserError: the dtype is int8.

    Example:
        >>> net = MultiScaleDBLRNet().eval()
        >>> architecture = dict(num_frames=5, color='luma', channels=(16, 32, 48, 64),
        ...                     num_blocks=(1, 1, 2, 3, 2, 1, 3), align=False)
        >>> strips = StripMultiScaleDBLRNet(net.state_dict(), architecture)
        >>> strips(torch.zeros(1, 5, 3, 64, 48, dtype=torch.uint8)).shape
        torch.Size([1, 3, 64, 48])
    """

    def __init__(
        self,
        state_dict: Mapping[str, torch.Tensor],
        architecture: Mapping[str, Any],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if dtype == torch.int8:
            raise UserError(
                'int8 is not supported by MultiScaleDBLRNet; use float32, or a DBLRNet such as '
                'dblrnet_plus'
            )
        super().__init__(architecture['num_frames'], architecture['color'], dtype)
        self.aligned = architecture['align']
        num_blocks = architecture['num_blocks']
        coarsest = len(num_blocks) // 2
        up = num_blocks[:coarsest:-1]

        def stored(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return state_dict[f'{name}.weight'].float(), state_dict[f'{name}.bias'].float()

        def conv(weight: torch.Tensor, bias: torch.Tensor) -> Conv:
            return Conv(weight, bias, dtype, dtype == torch.float32, wide=False)

        def blocks(name: str, count: int) -> Blocks:
            return ModuleList(
                ModuleList(conv(*stored(f'{name}.{i}.conv{k}')) for k in (1, 2))
                for i in range(count)
            )

        weight, bias = over_time(*stored('head'), 1)
        self.head = conv(INPUT_SCALE * weight, bias)
        self.encoders = ModuleList(blocks(f'encoders.{i}', num_blocks[i]) for i in range(coarsest))
        self.down = ModuleList(_Down(*stored(f'down.{i}'), dtype) for i in range(coarsest))
        self.body = blocks('body', num_blocks[coarsest])
        self.up = ModuleList(_Up(*stored(f'up.{i}'), dtype) for i in range(coarsest))
        self.decoders = ModuleList(blocks(f'decoders.{i}', count) for i, count in enumerate(up))
        weight, bias = stored('tail')
        self.tail = conv(OUTPUT_SCALE * weight, OUTPUT_SCALE * bias)
        self.multiple = 2**coarsest
        self.row_step = 6 * self.multiple  # so that the coarsest layers have enough rows

    halo = MultiScaleDBLRNet.halo  # reads attributes that both networks have

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes per full-resolution pixel of the maps of the scale that needs the most memory."""
        maps = [self.head.c_out, *(down.c_out / 4**i for i, down in enumerate(self.down, 1))]
        return int(max(maps) * self.dtype.itemsize)

    def align(self, windows: torch.Tensor) -> torch.Tensor:
        if not self.aligned:
            return windows
        luma = unit_luma(windows)
        return align_frames(luma if self.color == 'luma' else unit_range(windows), luma)

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        """Subtract the mean, and pad rows and columns to a multiple of :attr:`multiple`."""
        height, width = frames.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        return F.pad(frames - MEAN, pad, mode='replicate')

    def join(self, centre: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return centre + out

    def whole(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.head(maps, padding=1)
        skips = []
        for encoder, down in zip(self.encoders, self.down, strict=True):
            skips.append(_residual(encoder, maps))
            maps = down(skips[-1])
        maps = _residual(self.body, maps)
        for i in reversed(range(len(self.up))):
            maps = _residual(self.decoders[i], skips[i] + self.up[i](maps))
        return self.tail(maps, padding=1)

    def step(
        self, rows: torch.Tensor, state: State | None, last: bool
    ) -> tuple[torch.Tensor, State]:
        strip = Strip(state, last)
        maps, place = strip.open(self.head, rows, *rows.shape[2:])
        place.copy_(rows)
        strip.keep(maps)
        rows = self.head(maps)
        if len(self.encoders[0]):
            maps, place = strip.open(self.encoders[0][0][0], rows, *rows.shape[2:])
            place.copy_(rows)
            rows = strip.blocks(self.encoders[0], maps, None)
        skips = []
        for down, blocks in zip(self.down, [*self.encoders[1:], self.body], strict=True):
            skips.append(_even_pieces(strip, rows))
            count = sum(piece.shape[2] for piece in skips[-1]) // 2
            maps, place = _open(strip, blocks, None, down.c_out, rows, count, rows.shape[3] // 2)
            down.into(place, skips[-1])
            rows = strip.blocks(blocks, maps, None)
        for i in reversed(range(len(self.up))):
            up, blocks = self.up[i], self.decoders[i]
            following = None if i else self.tail
            count, width = 2 * rows.shape[2], 2 * rows.shape[3]
            waiting = [*(strip.held() or []), *skips[i]]
            skipped = list(_take_rows(waiting, count))
            strip.hold(waiting)
            maps, place = _open(strip, blocks, following, up.c_out, rows, count, width)
            up.into(place, rows, skipped)
            rows = strip.blocks(blocks, maps, following)
        strip.keep(rows)
        return self.tail(rows), strip.after


class _Down(nn.Module):
    """2x2 convolution with a stride of 2."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.c_out = len(bias)
        weight = weight.detach().to(dtype, memory_format=torch.channels_last, copy=True)
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias.detach().to(dtype, copy=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c_in, 2 h, 2 w) to (n, c_out, h, w)."""
        return F.conv2d(x, self.weight, self.bias, stride=2)

    def into(self, place: torch.Tensor, pieces: list[torch.Tensor]) -> None:
        """Convolve input rows given as a list of pieces, and write the result to ``place``."""
        done = 0
        for piece in pieces:
            count = piece.shape[2] // 2
            place[:, :, done : done + count] = self(piece)
            done += count


class _Up(nn.Module):
    """Transposed 2x2 convolution with a stride of 2."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.c_out = len(bias)
        self.register_buffer('weight', weight.detach().to(dtype, copy=True))
        self.register_buffer('bias', bias.detach().to(dtype, copy=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, c_in, h, w) to (n, c_out, 2 h, 2 w)."""
        return F.conv_transpose2d(x, self.weight, self.bias, stride=2)

    def into(self, place: torch.Tensor, x: torch.Tensor, skipped: list[torch.Tensor]) -> None:
        """Upsample, add the rows of a skip connection, and write the sum to ``place``.

        ``skipped`` holds those rows in pieces, each with an even number of rows.
        """
        for odd in (0, 1):  # even rows of the result, then odd rows
            taps = self.weight[:, :, odd].transpose(1, 2).flatten(1)  # (c_in, 2 c_out)
            pixels = F.linear(x.permute(0, 2, 3, 1), taps.T, self.bias.repeat(2))
            maps = pixels.flatten(2).unflatten(2, (-1, self.c_out)).permute(0, 3, 1, 2)
            done = 0
            for piece in skipped:
                end = done + piece.shape[2]
                part = maps[:, :, done // 2 : end // 2]
                torch.add(part, piece[:, :, odd::2], out=place[:, :, done + odd : end : 2])
                done = end


def _residual(blocks: Blocks, maps: torch.Tensor) -> torch.Tensor:
    for first, second in blocks:
        maps = maps + second(F.relu(first(maps, padding=1)), padding=1)
    return maps


def _open(
    strip: Strip,
    blocks: Blocks,
    following: Conv | None,
    channels: int,
    like: torch.Tensor,
    count: int,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Allocate the input of residual blocks, or of the following layer if there are no blocks.

    Returns:
        The whole input, and a view of its new rows, which the caller must fill. Both are the new
        rows alone if there are neither blocks nor a following layer.
    """
    layer = blocks[0][0] if len(blocks) else following
    if layer is not None:
        return strip.open(layer, like, count, width)
    rows = torch.empty(
        (len(like), channels, count, width),
        dtype=like.dtype, device=like.device, memory_format=torch.channels_last,
    )  # fmt: skip
    return rows, rows


def _even_pieces(strip: Strip, rows: torch.Tensor) -> list[torch.Tensor]:
    """Split rows into pieces with an even number of rows each.

    An unpaired last row is held for the next strip, where it starts the first piece.
    """
    held = strip.held()
    pieces = []
    if held is not None:
        pieces.append(torch.cat([held, rows[:, :, :1]], dim=2))
        rows = rows[:, :, 1:]
    odd = rows.shape[2] % 2
    strip.hold(rows[:, :, -1:].clone(memory_format=torch.channels_last) if odd else None)
    even = rows[:, :, : rows.shape[2] - odd]
    return [*pieces, even] if even.shape[2] else pieces


def _take_rows(waiting: list[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    """Remove the first ``count`` rows from the list of pieces, and yield them."""
    while count:
        piece = waiting.pop(0)
        if piece.shape[2] > count:
            waiting.insert(0, piece[:, :, count:])
            piece = piece[:, :, :count]
        count -= piece.shape[2]
        yield piece
