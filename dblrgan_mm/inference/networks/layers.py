"""Layers and colour conversions of the inference networks."""

import torch
from torch import nn
from torch.nn import functional as F

from dblrgan_mm.inference.networks.int8 import Int8Conv
from dblrgan_mm.inference.networks.winograd import NarrowConv, RowWinograd

_WIDE = 48  # with at least this many input and output maps, Winograd's algorithm is faster


class Conv(nn.Module):
    """3x3 convolution with zero padding in width, and without padding in height by default.

    Args:
        weight: (c_out, c_in, 3, 3).
        bias: (c_out,).
        dtype: dtype of the input, the weights and the result.
        products: whether to use matrix products on a CPU where they are faster.
        wide: whether to use them also for layers with many maps (``RowWinograd``).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        dtype: torch.dtype,
        products: bool,
        wide: bool = True,
    ) -> None:
        super().__init__()
        self.c_out, self.c_in = weight.shape[:2]
        self.takes = dtype
        weight = weight.detach().to(dtype, memory_format=torch.channels_last, copy=True)
        self.register_buffer('weight', weight)
        self.register_buffer('bias', bias.detach().to(dtype, copy=True))
        self.products: RowWinograd | NarrowConv | None = None
        if products and wide and min(self.c_in, self.c_out) >= _WIDE:
            self.products = RowWinograd(self.weight, self.bias)
        elif products and self.c_out <= 3:
            self.products = NarrowConv(self.weight, self.bias)

    def forward(self, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        """Convolve; the result has 2 rows fewer than ``x``, or as many with ``padding=1``."""
        if isinstance(self.products, NarrowConv) and padding == 0 and _is_single_on_cpu(x):
            return self.products(x[0])[None]
        return F.conv2d(x, self.weight, self.bias, padding=(padding, 1))

    def into(
        self,
        place: torch.Tensor,
        x: torch.Tensor,
        plus: torch.Tensor | None,
        following: 'Conv | Int8Conv | None',
    ) -> None:
        """Convolve without vertical padding and write the result into the next layer's input.

        Args:
            place: part of the input of ``following`` to write to; 2 rows fewer than ``x``.
            x: input.
            plus: maps added to the result; None: apply ReLU instead.
            following: the next layer; None if there is none.
        """
        if isinstance(following, Int8Conv) and place.dtype == torch.uint8:
            place.copy_(following.quantized(self(x)))  # clips at 0 like ReLU
            return
        done, rows = 0, place.shape[2]
        if isinstance(self.products, RowWinograd) and _is_single_on_cpu(x):
            six = self.products.rows
            for done in range(0, rows - six + 1, six):
                maps = self.products(x[0, :, done : done + six + 2].permute(1, 2, 0))
                _finish(maps.permute(2, 0, 1)[None], place, plus, done)
            done = rows // six * six
        if done < rows:
            rest = F.conv2d(x[:, :, done:], self.weight, self.bias, padding=(0, 1))
            _finish(rest, place, plus, done)


def _finish(maps: torch.Tensor, place: torch.Tensor, plus: torch.Tensor | None, begin: int) -> None:
    """Write maps to the rows of ``place`` from ``begin`` on, after adding ``plus`` or ReLU."""
    rows = slice(begin, begin + maps.shape[2])
    if plus is None:
        torch.clamp_min(maps, 0, out=place[:, :, rows])
    else:
        torch.add(maps, plus[:, :, rows], out=place[:, :, rows])


def _is_single_on_cpu(x: torch.Tensor) -> bool:
    return len(x) == 1 and x.device.type == 'cpu'


def over_time(
    weight: torch.Tensor, bias: torch.Tensor, frames_out: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a 3D convolution without temporal padding to a 2D one over (frame, channel) maps.

    Args:
        weight: (c_out, c_in, kt, 3, 3).
        bias: (c_out,).
        frames_out: output frames of the 3D convolution, for ``frames_out + kt - 1`` input frames.

    Returns:
        Weight (frames_out c_out, (frames_out + kt - 1) c_in, 3, 3) and bias (frames_out c_out,).
    """
    c_out, c_in, kt, kh, kw = weight.shape
    flat = weight.new_zeros(frames_out, c_out, frames_out + kt - 1, c_in, kh, kw)
    for frame in range(frames_out):
        flat[frame, :, frame : frame + kt] = weight.transpose(1, 2)
    return flat.flatten(2, 3).flatten(0, 1), bias.repeat(frames_out)


def unit_range(frames: torch.Tensor) -> torch.Tensor:
    """Convert uint8 or uint16 frames to float32 in [0, 1], and floating-point ones to float32."""
    if frames.is_floating_point():
        return frames.float()
    return frames.float() / torch.iinfo(frames.dtype).max
