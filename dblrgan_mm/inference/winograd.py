"""3x3 convolutions for a CPU in float32, as matrix products with fewer multiplications."""

import torch
from torch import nn

# Winograd's minimal filtering F(4, 3): four results of a filter of three taps by six products.
# Winograd, "Arithmetic Complexity of Computations", 1980; for images Lavin and Gray, "Fast
# Algorithms for Convolutional Neural Networks", CVPR 2016, from which the three matrices are.
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


class RowWinograd(nn.Module):
    """3x3 convolution with half the multiplications: F(4, 3) from row to row, plain within a row.

    In both directions it would need a quarter, and lose that again by moving data about. The
    rounding error is that of a direct convolution.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        taps = torch.einsum('kr,oirx->kxio', torch.tensor(_FILTER).double(), weight.double())
        self.register_buffer('taps', taps.float().contiguous())  # (6, 3, c_in, c_out)
        self.register_buffer('bias', bias)
        self.register_buffer('to_products', torch.tensor(_INPUT, dtype=torch.float32))
        self.register_buffer('from_products', torch.tensor(_OUTPUT, dtype=torch.float32))

    def forward(self, six: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            six: (6, w, c_in): a row above, four rows, and one below. Beyond the first and last
                column lie zeros.

        Returns:
            (4, w, c_out).
        """
        _, width, channels = six.shape
        six = (self.to_products @ six.reshape(6, -1)).view(6, width, channels)
        products = torch.bmm(six, self.taps[:, 1])
        for taps, given, taken in (
            (self.taps[:, 0], six[:, :-1], products[:, 1:]),
            (self.taps[:, 2], six[:, 1:], products[:, :-1]),
        ):
            if width > 1:
                torch.baddbmm(taken, given, taps, out=taken)
        four = self.from_products @ products.view(6, -1)
        return four.view(4, width, -1).add_(self.bias)


class NarrowConv(nn.Module):
    """3x3 convolution to very few maps: one matrix product to all taps, which are then added up.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.c_out = len(bias)
        self.register_buffer('taps', weight.permute(1, 2, 3, 0).flatten(1).contiguous())
        self.register_buffer('bias', bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(c_in, h + 2, w) to (c_out, h, w); best where the channels lie side by side."""
        channels, height, width = x.shape
        taps = x.permute(1, 2, 0).reshape(-1, channels) @ self.taps
        taps = taps.view(height, width, 3, 3, self.c_out).permute(2, 3, 4, 0, 1)
        out = self.bias.view(-1, 1, 1).repeat(1, height - 2, width)
        for row in range(3):
            above, here, below = taps[row, :, :, row : row + height - 2]
            out[..., 1:] += above[..., :-1]
            out += here
            out[..., :-1] += below[..., 1:]
        return out
