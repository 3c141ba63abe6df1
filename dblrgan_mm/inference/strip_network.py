"""DBLRNet for inference: every layer a 2D convolution, computed strip by strip."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

_LUMA = (0.299, 0.587, 0.114)  # BT.601, as dblrgan_mm.models.color, which imports MMagic


class StripDBLRNet(nn.Module):
    """A trained DBLRNet that restores windows of any size in bounded memory.

    It computes what ``DBLRNet`` computes, in evaluation mode, from the same weights:

    - batch normalisation is folded into the convolution before it;
    - the 3D convolutions of the first two layers, which have no temporal padding, are written as
      2D convolutions over all frames' channels at once;
    - the frame passes the layers in strips of full width from top to bottom, and every layer
      keeps the last two rows that it saw for the next strip. Nothing is computed twice, as it
      would be with overlapping tiles, and all maps of a strip fit into a processor's cache.

    All three are ours.

    Args:
        state_dict: a ``DBLRNet``'s.
        architecture: that network's arguments: num_frames, color, residual.
        dtype: of the convolutions; frames, luma and the result are float32.

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
        self.dtype = dtype

        def conv(name: str, norm: str | None = None) -> _Conv:
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            if norm is not None and f'{norm}.weight' in state_dict:
                keys = ('running_mean', 'running_var', 'weight', 'bias')
                mean, var, scale, shift = (state_dict[f'{norm}.{key}'].float() for key in keys)
                weight, bias = fuse_conv_bn_weights(
                    weight.float(), bias.float(), mean, var, 1e-5, scale, shift
                )
            return _Conv(weight, bias, dtype)

        frames = self.num_frames
        self.head = nn.ModuleList()
        for name in ('head.0', 'head.2'):
            weight, bias = state_dict[f'{name}.weight'], state_dict[f'{name}.bias']
            frames = frames - weight.shape[2] + 1
            self.head.append(_Conv(*over_time(weight, bias, frames), dtype))
        blocks = 1 + max(
            (int(key.split('.')[1]) for key in state_dict if key.startswith('body.')), default=-1
        )
        self.body = nn.ModuleList(
            nn.ModuleList(conv(f'body.{i}.conv{k}', norm=f'body.{i}.norm{k}') for k in (1, 2))
            for i in range(blocks)
        )
        self.tail = nn.ModuleList(conv(f'tail.{i}') for i in (0, 2, 4))

    @property
    def halo(self) -> int:
        """Rows that the result lags behind the input: one a 3x3 convolution."""
        return len(self.head) + 2 * len(self.body) + len(self.tail)

    @property
    def widest(self) -> int:
        """Maps of the widest layer."""
        return max(m.weight.shape[0] for m in self.modules() if isinstance(m, _Conv))

    def forward(self, windows: torch.Tensor, tile: int | None = None) -> torch.Tensor:
        """Restore the centre frames.

        Args:
            windows: (n, t, 3, h, w), RGB, uint8 or uint16, or floating in [0, 1].
            tile: rows of a strip; the result does not depend on it. None: all at once.

        Returns:
            (n, 3, h, w), float32, RGB in [0, 1], not clamped.
        """
        height = windows.shape[-2]
        restored = []
        state: list[torch.Tensor | None] = [None] * (self.halo + len(self.body) + 1)
        done = 0
        for begin, end in strips(height, tile or height, self.halo):
            rows = self.network_input(windows[..., begin:end, :])
            out, state = self.step(rows, state, end == height)
            centre = windows[:, self.num_frames // 2, :, done : done + out.shape[2]]
            restored.append(self.join(unit_range(centre), out.float()))
            done += out.shape[2]
        return restored[0] if len(restored) == 1 else torch.cat(restored, dim=2)

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

    def step(
        self, rows: torch.Tensor, state: list[torch.Tensor | None], last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """One strip through all layers.

        Args:
            rows: the network's input, the next rows from the top.
            state: what this method returned for the strip above; None for each at the top.
            last: whether these rows reach the bottom.

        Returns:
            The result's next rows, :attr:`halo` behind the input, and the new state.
        """
        before, after = iter(state), []

        def conv(layer: _Conv, x: torch.Tensor) -> torch.Tensor:
            out, kept = layer(x, next(before), last)
            after.append(kept)
            return out

        def delayed(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
            """The rows of x, and of those held back, that belong to the rows of `like`."""
            held = next(before)
            x = x if held is None else torch.cat([held, x], dim=2)
            after.append(x[:, :, like.shape[2] :].clone(memory_format=torch.channels_last))
            return x[:, :, : like.shape[2]]

        for layer in self.head:
            rows = F.relu_(conv(layer, rows))
        maps = rows
        for first, second in self.body:
            out = conv(second, F.relu_(conv(first, maps)))
            maps = out.add_(delayed(maps, out))
        maps = maps + delayed(rows, maps)
        for layer in self.tail[:-1]:
            maps = F.relu_(conv(layer, maps))
        return conv(self.tail[-1], maps), after


class _Conv(nn.Module):
    """3x3 convolution of rows that continue those of the strip above."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.detach().to(dtype, memory_format=torch.channels_last, copy=True)
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias.detach().to(dtype, copy=True))

    def forward(
        self, x: torch.Tensor, above: torch.Tensor | None, last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the result, and the rows to hand in as ``above`` with the next strip.

        Beyond the frame's top and bottom lies one row of zeros, as in ``DBLRNet``.
        """
        if above is None and last:
            return F.conv2d(x, self.weight, self.bias, padding=1), x[:, :, :0]
        zeros = x.new_zeros(x.shape[0], x.shape[1], 1, x.shape[3])
        x = torch.cat([zeros if above is None else above, x] + [zeros] * last, dim=2)
        kept = x[:, :, -2:].clone(memory_format=torch.channels_last)
        return F.conv2d(x, self.weight, self.bias, padding=(0, 1)), kept


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
