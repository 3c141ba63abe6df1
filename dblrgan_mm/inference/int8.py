"""3x3 convolutions for a CPU in 8-bit integers, and the image that sets their scales."""

from typing import Any

import cv2
import numpy as np
import torch
from torch import nn


class Int8Conv(nn.Module):
    """3x3 convolution of maps of 8-bit integers.

    A map stands as ``(value - zero) * step``, a weight as a multiple of its output map's own step;
    products are added up exactly. Values out of the range are clipped to it. Jacob et al.,
    "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    CVPR 2018.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
        low, high: range of the input.
        takes: dtype of the input: uint8, then ``low`` is 0, or float32, of which this layer makes
            integers itself.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        low: float,
        high: float,
        takes: torch.dtype,
    ) -> None:
        super().__init__()
        self.c_in = weight.shape[1]
        self.takes = takes
        low, high = min(low, 0.0), max(high, 1e-6)
        self.step = (high - low) / 255
        self.zero = round(-low / self.step)
        steps = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        integers = (weight / steps.view(-1, 1, 1, 1)).round().to(torch.int8)
        self.bias, self.steps = bias, steps
        self.zeros = torch.zeros(len(bias), dtype=torch.int32)
        # in a layout of oneDNN's
        self.packed = torch.ops.onednn.qconv_prepack(
            integers, steps, self.step, self.zero, [1, 1], [0, 1], [1, 1], 1, None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows in between those of x, in float32."""
        return self._convolve(x, None, 'none')

    def into(
        self,
        place: torch.Tensor,
        x: torch.Tensor,
        plus: torch.Tensor | None,
        following: 'Int8Conv',
    ) -> None:
        """Write the rows in between those of x to a place in the input of the following layer,
        after an addition, or else ReLU."""
        if plus is not None:
            torch.add(self(x), plus, out=place)
        else:
            step = following.step if place.dtype == torch.uint8 else None
            place.copy_(self._convolve(x, step, 'relu'))

    def quantized(self, maps: torch.Tensor) -> torch.Tensor:
        """Of float32 the integers that this layer computes with."""
        steps = torch.mul(maps, 1 / self.step).add_(self.zero + 0.5).clamp_(0, 255)
        return steps.to(torch.uint8, memory_format=torch.channels_last)

    def _convolve(self, x: torch.Tensor, step: float | None, after: str) -> torch.Tensor:
        """In float32, or integers of a step."""
        return torch.ops.onednn.qconv_pointwise(
            x if x.dtype == torch.uint8 else self.quantized(x),
            self.step, self.zero, self.packed, self.steps, self.zeros, self.bias,
            [1, 1], [0, 1], [1, 1], 1,
            step or 1.0, 0, torch.float32 if step is None else torch.uint8, after, [], '',
        )  # fmt: skip


def has_int8() -> bool:
    """Whether torch has these operators, and the CPU VNNI.

    Without it oneDNN would add up products in 16 bits, and silently clip them.
    """
    able = capabilities()
    vnni = able.get('avx512_vnni') or able.get('avx_vnni')
    operators = ('qconv_prepack', 'qconv_pointwise')
    return bool(vnni) and all(hasattr(torch.ops.onednn, name) for name in operators)


def capabilities() -> dict[str, Any]:
    """What the CPU can do, as torch from 2.10 on tells; {} before."""
    return getattr(torch.cpu, 'get_capabilities', dict)()


def dead_leaves(size: int = 256) -> np.ndarray:
    """An image of opaque discs upon one another, (size, size, 3), uint8: always the same.

    Its statistics are those of natural images (Lee, Mumford and Huang, "Occlusion Models for
    Natural Images", IJCV 2001), and it has what strains a network: full contrast, sharp edges at
    all scales, areas of pure black and white. Radii r from 2 pixels to a quarter of the image,
    their density as 1 / r^3.
    """
    rng = np.random.RandomState(0)  # whose numbers NumPy promises to keep
    image = np.zeros((size, size, 3), np.uint8)
    discs = 3000
    share = rng.random_sample(discs)
    radii = 1 / np.sqrt((1 - share) / 2**2 + share / (size / 4) ** 2)
    centres = rng.randint(0, size, (discs, 2))
    colours = np.clip(rng.randint(-64, 320, (discs, 1)) + rng.randint(-64, 65, (discs, 3)), 0, 255)
    for (x, y), radius, colour in zip(centres, radii, colours, strict=True):
        cv2.circle(image, (int(x), int(y)), int(radius), colour.tolist(), cv2.FILLED)
    return image
