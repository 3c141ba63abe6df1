"""3x3 convolutions in float32 on a CPU, as matrix products."""

import torch
from torch import nn

# Winograd's minimal filtering algorithm F(6, 3): six outputs of a 3-tap filter with eight
# multiplications. Winograd, "Arithmetic Complexity of Computations", 1980; for images Lavin and
# Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016. The Cook-Toom construction
# uses the points 0, 1, -1, 2, -2, 1/2, -1/2 and infinity.
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
    """3x3 convolution with 4/9 of the multiplications: F(6, 3) over rows, direct over columns.

    F(6, 3) in both directions would need a fifth of the multiplications, but the additional data
    movement outweighs the gain. The rounding error is a few times that of a direct convolution.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
    """

    taps: torch.Tensor
    bias: torch.Tensor
    to_products: torch.Tensor
    from_products: torch.Tensor
    rows = 6  # output rows per call

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
            eight: (8, w, c_in): one row above, six rows, and one row below. Columns beyond the
                first and last are zero.

        Returns:
            (6, w, c_out).
        """
        _, width, channels = eight.shape
        # Pad each row with zeros and read it at three offsets, so that each product is added to all
        # columns; torch is fast only in that case.
        padded = eight.new_empty(8, width + 2, channels)
        padded[:, 0] = padded[:, -1] = 0
        torch.mm(self.to_products, eight.reshape(8, -1), out=padded[:, 1:-1].flatten(1))
        products = torch.bmm(padded[:, :width], self.taps[:, 0])
        products.baddbmm_(padded[:, 1:-1], self.taps[:, 1])
        products.baddbmm_(padded[:, 2:], self.taps[:, 2])
        products[1] += self.bias  # the product of point 1 has weight 1 in all outputs
        return (self.from_products @ products.view(8, -1)).view(6, width, -1)


class NarrowConv(nn.Module):
    """3x3 convolution to very few maps: one matrix product for all taps, which are then summed.

    Args:
        weight: (c_out, c_in, 3, 3), float32.
        bias: (c_out,).
    """

    taps: torch.Tensor
    bias: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.c_out = len(bias)
        self.register_buffer('taps', weight.permute(1, 2, 3, 0).flatten(1).contiguous())
        self.register_buffer('bias', bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (c_in, h + 2, w) to (c_out, h, w); fastest if ``x`` is channels-last in memory."""
        channels, height, width = x.shape
        taps = x.permute(1, 2, 0).reshape(-1, channels) @ self.taps
        taps = taps.view(height, width, 3, 3, self.c_out).permute(2, 3, 4, 0, 1)
        out = self.bias.view(-1, 1, 1).repeat(1, height - 2, width)
        for row in range(3):
            left, centre, right = taps[row, :, :, row : row + height - 2]
            out[..., 1:] += left[..., :-1]
            out += centre
            out[..., :-1] += right[..., 1:]
        return out
