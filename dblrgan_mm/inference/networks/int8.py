"""3x3 convolutions in 8-bit integers on a CPU, and the images that calibrate their ranges.

``StripDBLRNet._quantize`` does the calibration.
"""

import cv2
import numpy as np
import torch
from torch import nn

from dblrgan_mm.devices import capabilities


class Int8Conv(nn.Module):
    """3x3 convolution of maps quantised to 8-bit integers.

    An integer in a map represents the value ``(integer - zero) * step``. Weights are integers
    times a step, one step per output map. Products are accumulated exactly. Input values outside
    the range are clipped. From Jacob et al., "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference", CVPR 2018.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
        low, high: range of the input.
        takes: dtype of the input: uint8, which requires ``low`` to be 0, or float32, which this
            layer quantises itself.
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
        self.packed = self._packed(integers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve; the result has 2 rows fewer than ``x``, in float32."""
        return self._convolve(x, None, 'none')

    def into(
        self,
        place: torch.Tensor,
        x: torch.Tensor,
        plus: torch.Tensor | None,
        following: nn.Module | None,
    ) -> None:
        """Convolve without vertical padding and write the result into the next layer's input.

        Args:
            place: part of the input of ``following`` to write to; 2 rows fewer than ``x``.
            x: input.
            plus: maps added to the result; None: apply ReLU instead.
            following: the next layer; None if there is none.
        """
        if plus is not None:
            torch.add(self(x), plus, out=place)
        else:
            step = None
            if isinstance(following, Int8Conv) and place.dtype == torch.uint8:
                step = following.step
            place.copy_(self._convolve(x, step, 'relu'))

    def quantized(self, maps: torch.Tensor) -> torch.Tensor:
        """Quantise float32 maps to this layer's input."""
        steps = torch.mul(maps, 1 / self.step).add_(self.zero + 0.5).clamp_(0, 255)
        return steps.to(torch.uint8, memory_format=torch.channels_last)

    def _packed(self, integers: torch.Tensor) -> torch.Tensor:
        """Return the weights in oneDNN's own layout."""
        return torch.ops.onednn.qconv_prepack(
            integers, self.steps, self.step, self.zero, [1, 1], [0, 1], [1, 1], 1, None
        )

    def _convolve(self, x: torch.Tensor, step: float | None, after: str) -> torch.Tensor:
        """Convolve; return float32, or uint8 in multiples of ``step`` if it is given."""
        return torch.ops.onednn.qconv_pointwise(
            x if x.dtype == torch.uint8 else self.quantized(x),
            self.step, self.zero, self.packed, self.steps, self.zeros, self.bias,
            [1, 1], [0, 1], [1, 1], 1,
            step or 1.0, 0, torch.float32 if step is None else torch.uint8, after, [], '',
        )  # fmt: skip


def has_int8() -> bool:
    """Return whether torch has the int8 operators and the CPU has VNNI.

    Without VNNI, oneDNN accumulates products in 16 bits and saturates silently.
    """
    able = capabilities()
    vnni = able.get('avx512_vnni') or able.get('avx_vnni')
    operators = ('qconv_prepack', 'qconv_pointwise')
    return bool(vnni) and all(hasattr(torch.ops.onednn, name) for name in operators)


def dead_leaves(frames: int, motion: float = 0.0, seed: int = 0, size: int = 256) -> np.ndarray:
    """Draw dead leaves: overlapping opaque discs, (frames, size, size, 3), uint8, deterministic.

    Their statistics resemble those of natural images (Lee, Mumford and Huang, "Occlusion Models
    for Natural Images", IJCV 2001), and their full contrast, sharp edges at all scales and areas of
    pure black and white are demanding for a network. Radii r range from 2 pixels to a quarter of
    the image, with a density proportional to 1 / r^3. The motion of the discs is our addition.

    Args:
        frames: number of frames.
        motion: each disc has a random velocity in x and y, with a standard deviation between 0 and
            this, in pixels per frame.
        seed: selects the discs.
        size: height and width.
    """
    rng = np.random.RandomState(seed)  # NumPy guarantees a stable stream for RandomState
    discs = 3000
    share = rng.random_sample(discs)
    radii = 1 / np.sqrt((1 - share) / 2**2 + share / (size / 4) ** 2)
    centres = rng.randint(0, size, (discs, 2))
    colours = np.clip(rng.randint(-64, 320, (discs, 1)) + rng.randint(-64, 65, (discs, 3)), 0, 255)
    velocities = motion * rng.random_sample((discs, 1)) * rng.standard_normal((discs, 2))
    images = np.zeros((frames, size, size, 3), np.uint8)
    for number, image in enumerate(images):
        places = np.rint(centres + (number - frames // 2) * velocities).astype(int)
        for (x, y), radius, colour in zip(places.tolist(), radii, colours.tolist(), strict=True):
            cv2.circle(image, (x, y), int(radius), colour, cv2.FILLED)
    return images
