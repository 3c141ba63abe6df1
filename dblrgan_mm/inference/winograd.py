"""3x3 convolutions for a CPU in float32, as matrix products with fewer multiplications."""

import torch
from torch import nn

# Winograd's minimal filtering F(6, 3): six results of a filter of three taps by eight products.
# Winograd, "Arithmetic Complexity of Computations", 1980; for images Lavin and Gray, "Fast
# Algorithms for Convolutional Neural Networks", CVPR 2016. The points are 0, 1, -1, 2, -2, 1/2,
# -1/2 and infinity, by Cook's and Toom's construction.
_INPUT = (
    (1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0),
    (0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0),
    (0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0),
    (0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0),
    (0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0),
    (0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0),
    (0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0),
    (0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1),
)
_FILTER = (
    (1, 0, 0),
    (-2 / 9, -2 / 9, -2 / 9),
    (-2 / 9, 2 / 9, -2 / 9),
    (1 / 90, 1 / 45, 2 / 45),
    (1 / 90, -1 / 45, 2 / 45),
    (32 / 45, 16 / 45, 8 / 45),
    (32 / 45, -16 / 45, 8 / 45),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 1 / 2, -1 / 2, 0),
    (0, 1, 1, 4, 4, 1 / 4, 1 / 4, 0),
    (0, 1, -1, 8, -8, 1 / 8, -1 / 8, 0),
    (0, 1, 1, 16, 16, 1 / 16, 1 / 16, 0),
    (0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1),
)


class RowWinograd(nn.Module):
    """3x3 convolution with 4/9 of the multiplications: F(6, 3) from row to row, plain within a row.

    In both directions it would need a fifth, and lose that again by moving data about. It rounds
    like a direct convolution, with a few times the error.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
    """

    rows = 6  # of a result

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        taps = torch.einsum(
            'kr,oirx->kxio', torch.tensor(_FILTER, dtype=torch.float64), weight.double()
        )
        self.register_buffer('taps', taps.float().contiguous())  # (8, 3, c_in, c_out)
        self.register_buffer('bias', bias)
        self.register_buffer('to_products', torch.tensor(_INPUT, dtype=torch.float32))
        self.register_buffer('from_products', torch.tensor(_OUTPUT, dtype=torch.float32))

    def forward(self, eight: torch.Tensor) -> torch.Tensor:
        """Convolve.

        Args:
            eight: (8, w, c_in): a row above, six rows, and one below. Beyond the first and last
                column lie zeros.

        Returns:
            (6, w, c_out).
        """
        _, width, channels = eight.shape
        # with the zeros beyond its ends a row is read three times, and each product added to all
        # columns: torch has a fast way for that alone
        padded = eight.new_empty(8, width + 2, channels)
        padded[:, 0] = padded[:, -1] = 0
        torch.mm(self.to_products, eight.reshape(8, -1), out=padded[:, 1:-1].flatten(1))
        products = torch.bmm(padded[:, :width], self.taps[:, 0])
        products.baddbmm_(padded[:, 1:-1], self.taps[:, 1])
        products.baddbmm_(padded[:, 2:], self.taps[:, 2])
        products[1] += self.bias  # of the point 1, which goes to all results unchanged
        return (self.from_products @ products.view(8, -1)).view(6, width, -1)


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
