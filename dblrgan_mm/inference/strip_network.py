"""DBLRNet for inference: every layer a 2D convolution, computed strip by strip."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.int8 import Int8Conv, dead_leaves, has_int8
from dblrgan_mm.inference.winograd import NarrowConv, RowWinograd

_WIDE = 48  # maps, in and out, from which on it pays to have fewer multiplications
_INT8_LOSS = 0.1  # of what a network changes; below half a grey level of 255 it does not matter
_LUMA = (0.299, 0.587, 0.114)  # BT.601, as dblrgan_mm.models.color, which imports MMagic


class StripDBLRNet(nn.Module):
    """A trained DBLRNet that restores windows of any size in bounded memory.

    It computes what ``DBLRNet`` computes, in evaluation mode, from the same weights:

    - batch normalisation is folded into the convolution before it;
    - the 3D convolutions of the first two layers, which have no temporal padding, are written as
      2D convolutions over all frames' channels at once;
    - the frame passes the layers in strips of full width from top to bottom, and every layer
      keeps the last two rows that it saw for the next strip. Nothing is computed twice, as it
      would be with overlapping tiles, and all maps of a strip fit into a processor's cache;
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
        super().__init__()
        self.num_frames = architecture['num_frames']
        self.color = architecture['color']
        self.residual = architecture['residual']
        self.dtype = torch.float32 if dtype == torch.int8 else dtype
        products = dtype == torch.float32

        def conv(name: str, norm: str | None = None) -> _Conv:
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            if norm is not None and f'{norm}.weight' in state_dict:
                keys = ('running_mean', 'running_var', 'weight', 'bias')
                mean, var, scale, shift = (state_dict[f'{norm}.{key}'].float() for key in keys)
                weight, bias = fuse_conv_bn_weights(
                    weight.float(), bias.float(), mean, var, 1e-5, scale, shift
                )
            return _Conv(weight, bias, self.dtype, products)

        frames = self.num_frames
        self.head = nn.ModuleList()
        for name in ('head.0', 'head.2'):
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            frames = frames - weight.shape[2] + 1
            self.head.append(_Conv(*over_time(weight, bias, frames), self.dtype, products))
        blocks = 1 + max(
            (int(key.split('.')[1]) for key in state_dict if key.startswith('body.')), default=-1
        )
        self.body = nn.ModuleList(
            nn.ModuleList(conv(f'body.{i}.conv{k}', norm=f'body.{i}.norm{k}') for k in (1, 2))
            for i in range(blocks)
        )
        self.tail = nn.ModuleList(conv(f'tail.{i}') for i in (0, 2, 4))
        self.int8 = False
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
            if isinstance(layer, _Conv)
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

        def integer(layer: _Conv, takes: torch.dtype) -> Int8Conv:
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
        layers = (m for m in self.modules() if isinstance(m, (_Conv, Int8Conv)))
        return max(layer.c_in * layer.takes.itemsize for layer in layers)

    def forward(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating in [0, 1].
            tile: rows of a strip; the result depends on it by rounding alone. None: all at once.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.
        """
        height = windows.shape[-2]
        centre = windows[:, self.num_frames // 2]
        if (tile is None or tile >= height) and not self.int8:
            return self.join(unit_range(centre), self.whole(self.network_input(windows)).float())
        restored = []
        state: list[torch.Tensor | None] = [None] * (self.halo + 1)
        done = 0
        for begin, end in strips(height, tile or height, self.halo):
            rows = self.network_input(windows[..., begin:end, :])
            out, state = self.step(rows, state, end == height)
            here = centre[:, :, done : done + out.shape[2]]
            restored.append(self.join(unit_range(here), out.float()))
            done += out.shape[2]
        return torch.cat(restored, dim=2)

    def network_input(self, windows: torch.Tensor) -> torch.Tensor:
        """Frames (n, t, 3, h, w) to the network's input (n, t or 3 t, h, w)."""
        frames = unit_range(windows)
        frames = luma(frames) if self.color == 'luma' else frames
        return frames.flatten(1, 2).to(self.dtype, memory_format=torch.channels_last)

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
        self, rows: torch.Tensor, state: list[torch.Tensor | None], last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """One strip through all layers.

        A layer's input is one tensor: the two rows kept of the strip above (at the top of the
        frame one of zeros, as in ``DBLRNet``), then the new ones, which the layer before writes
        there. Beyond the bottom lies a row of zeros.

        Args:
            rows: the network's input, the next rows from the top.
            state: what this method returned for the strip above; None for each at the top.
            last: whether these rows reach the bottom.

        Returns:
            The result's next rows, :attr:`halo` behind the input, and the new state.
        """
        before, after = iter(state), []
        top = 1 if state[0] is None else 2  # rows that stand before the new ones

        def opened(layer: _Conv | Int8Conv, count: int) -> tuple[torch.Tensor, torch.Tensor]:
            """The input of a layer, and in it the place of its new rows."""
            kept, shape = next(before), (len(rows), layer.c_in, top + count + last, rows.shape[3])
            maps = torch.empty(
                shape, dtype=layer.takes, device=rows.device, memory_format=torch.channels_last
            )
            maps[:, :, :top] = 0 if kept is None else kept
            maps[:, :, top + count :] = 0
            return maps, maps[:, :, top : top + count]

        def through(
            layer: _Conv | Int8Conv,
            maps: torch.Tensor,
            following: _Conv | Int8Conv,
            plus: torch.Tensor | None = None,
        ) -> torch.Tensor:
            """The input of the following layer: what this one gives, after ReLU or an addition."""
            after.append(maps[:, :, -2:].clone(memory_format=torch.channels_last))
            onward, place = opened(following, maps.shape[2] - 2)
            layer.into(place, maps, plus, following)
            return onward

        layers = [*self.head, *itertools.chain(*self.body), *self.tail]
        maps, place = opened(layers[0], rows.shape[2])
        place.copy_(rows)
        maps = through(layers[0], maps, layers[1])
        maps = through(layers[1], maps, layers[2])
        skipped = maps[:, :, top : maps.shape[2] - last]
        for i in range(2, len(layers) - 3, 2):
            block = maps
            maps = through(layers[i], maps, layers[i + 1])
            # two rows behind the block's input, which therefore has them all
            begin, count = 2 - top, maps.shape[2] - 2
            same = block[:, :, begin : begin + count]
            maps = through(layers[i + 1], maps, layers[i + 2], same)
        held = state[-1]
        new = maps[:, :, top : maps.shape[2] - last]
        skipped = skipped if held is None else torch.cat([held, skipped], dim=2)
        new.add_(skipped[:, :, : new.shape[2]])
        kept_back = skipped[:, :, new.shape[2] :].clone(memory_format=torch.channels_last)
        maps = through(layers[-3], maps, layers[-2])
        maps = through(layers[-2], maps, layers[-1])
        after.append(maps[:, :, -2:].clone(memory_format=torch.channels_last))
        return layers[-1](maps), [*after, kept_back]


class _Conv(nn.Module):
    """3x3 convolution, of rows that have one above and one below, or zeros."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype, products: bool
    ) -> None:
        super().__init__()
        c_out, self.c_in = weight.shape[:2]
        self.takes = dtype
        weight = weight.detach().to(dtype, memory_format=torch.channels_last, copy=True)
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias.detach().to(dtype, copy=True))
        # on a CPU all but the first layer are faster by matrix products
        self.products: RowWinograd | NarrowConv | None = None
        if products and min(self.c_in, c_out) >= _WIDE:
            self.products = RowWinograd(self.weight, self.bias)
        elif products and c_out <= 3:
            self.products = NarrowConv(self.weight, self.bias)

    def forward(self, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """Rows in between those of x, or with a padding as many as there are."""
        if isinstance(self.products, NarrowConv) and padding == 0 and _alone_on_cpu(x):
            return self.products(x[0])[None]
        return F.conv2d(x, self.weight, self.bias, padding=(padding, 1))

    def into(
        self,
        place: torch.Tensor,
        x: torch.Tensor,
        plus: torch.Tensor | None,
        following: '_Conv | Int8Conv',
    ) -> None:
        """Write the rows in between those of x to a place in the input of the following layer,
        after an addition, or else ReLU."""
        if place.dtype == torch.uint8:
            place.copy_(following.quantized(self(x)))  # its range begins with 0
            return
        done, rows = 0, place.shape[2]
        if isinstance(self.products, RowWinograd) and _alone_on_cpu(x):
            six = self.products.rows
            for done in range(0, rows - six + 1, six):
                maps = self.products(x[0, :, done : done + six + 2].permute(1, 2, 0))
                _finish(maps.permute(2, 0, 1)[None], place, plus, done)
            done = rows // six * six
        if done < rows:
            rest = F.conv2d(x[:, :, done:], self.weight, self.bias, padding=(0, 1))
            _finish(rest, place, plus, done)


def _finish(maps: torch.Tensor, place: torch.Tensor, plus: torch.Tensor | None, begin: int) -> None:
    """Write maps to the rows of a place from ``begin`` on, after an addition, or else ReLU."""
    rows = slice(begin, begin + maps.shape[2])
    if plus is None:
        torch.clamp_min(maps, 0, out=place[:, :, rows])
    else:
        torch.add(maps, plus[:, :, rows], out=place[:, :, rows])


def _alone_on_cpu(x: torch.Tensor) -> bool:
    return len(x) == 1 and x.device.type == 'cpu'


def over_time(
    weight: torch.Tensor, bias: torch.Tensor, frames_out: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A 3D convolution without temporal padding as a 2D one over (frame, channel) maps.

    Args:
        weight: (c_out, c_in, kt, 3, 3).
        bias: (c_out,).
        frames_out: frames that the 3D convolution gives, for ``frames_out + kt - 1``.

    Returns:
        Weight (frames_out c_out, (frames_out + kt - 1) c_in, 3, 3) and bias (frames_out c_out,).
    """
    c_out, c_in, kt, kh, kw = weight.shape
    flat = weight.new_zeros(frames_out, c_out, frames_out + kt - 1, c_in, kh, kw)
    for frame in range(frames_out):
        flat[frame, :, frame : frame + kt] = weight.transpose(1, 2)
    return flat.flatten(2, 3).flatten(0, 1), bias.repeat(frames_out)


def strips(height: int, tile: int, halo: int) -> list[tuple[int, int]]:
    """Rows [begin, end) of each strip of input; the first is longer, as the result lags behind."""
    ends = [*range(tile + halo, height, tile), height]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def unit_range(frames: torch.Tensor) -> torch.Tensor:
    """uint8 or uint16 to float32 in [0, 1]; floating ones to float32."""
    if frames.is_floating_point():
        return frames.float()
    return frames.float() / torch.iinfo(frames.dtype).max


def luma(rgb: torch.Tensor) -> torch.Tensor:
    """Y (..., 1, h, w) of RGB (..., 3, h, w)."""
    red, green, blue = rgb.unbind(-3)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(-3)
