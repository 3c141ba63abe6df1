"""DBLRNet, the generator: 3D convolutions over a window of frames, then residual blocks."""

from typing import cast

import torch
from torch import nn

from dblrgan_mm.nn.color import rgb_to_luma


class DBLRNet(nn.Module):
    """Restores the centre frame of a window of blurry frames.

    Source: Zhang et al., "Adversarial Spatio-Temporal Learning for Video Deblurring", IEEE TIP
    28(1), 2019. Two 3D convolutions without temporal padding merge five unaligned frames into
    one set of feature maps. 15 residual blocks with a long skip connection follow at full
    resolution, then three convolutions up to the output. The network processes luma only; the
    centre frame keeps its chroma. Numbers of frames other than five, ``norm=None``,
    ``residual=True`` and the initialisation are ours.

    With the default arguments it has 1.880 M parameters (``color='rgb'``: 1.885 M) and needs
    1.874 M multiply-accumulates per pixel.

    Args:
        num_frames: number t of frames in the window, odd.
        color: 'luma' restores Y and keeps the centre frame's chroma; 'rgb' restores all three
            channels.
        mid_channels: number of maps in the residual blocks, a multiple of 4. The first layer has a
            quarter of it, the layers before the last have four times as many.
        num_blocks: number of residual blocks.
        norm: 'BN' (batch normalisation, as in the paper) or None (ours).
        residual: whether the network predicts the difference to the centre frame (ours).
        fusion: 'slow' merges three frames in the first layer and the rest in the second, as in
            the paper. 'early' merges all frames in the first layer, which is then a 2D convolution
            of stacked frames. The names are those of Caballero et al., VESPCN, 2017.

    Raises:
        ValueError: for an invalid argument, and on a forward pass with the wrong number of axes,
            frames or channels.

    Example:
        >>> DBLRNet()(torch.rand(1, 5, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(
        self,
        num_frames: int = 5,
        color: str = 'luma',
        mid_channels: int = 64,
        num_blocks: int = 15,
        norm: str | None = 'BN',
        residual: bool = False,
        fusion: str = 'slow',
    ) -> None:
        super().__init__()
        require_window(num_frames, color)
        if norm not in ('BN', None):
            raise ValueError(f"norm must be 'BN' or None, got {norm!r}")
        if fusion not in ('slow', 'early'):
            raise ValueError(f"fusion must be 'slow' or 'early', got {fusion!r}")
        if mid_channels < 4 or mid_channels % 4:
            raise ValueError(f'mid_channels must be a multiple of 4, got {mid_channels}')
        self.num_frames = num_frames
        self.color = color
        self.residual = residual

        channels = 1 if color == 'luma' else 3
        wide = 4 * mid_channels
        # the first layer merges three frames, the second layer the rest of the window
        t1 = num_frames if fusion == 'early' else min(3, num_frames)
        t2 = num_frames - t1 + 1
        self.head = nn.Sequential(
            nn.Conv3d(channels, mid_channels // 4, (t1, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv3d(mid_channels // 4, mid_channels, (t2, 3, 3), padding=(0, 1, 1)),
            nn.ReLU(inplace=True),
        )
        self.body = nn.Sequential(*(ResidualBlock(mid_channels, norm) for _ in range(num_blocks)))
        self.tail = nn.Sequential(
            nn.Conv2d(mid_channels, wide, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, channels, 3, padding=1),
        )
        self._reset_parameters()
        # convolutions are faster with this layout, on GPUs and CPUs
        self.body.to(memory_format=torch.channels_last)
        self.tail.to(memory_format=torch.channels_last)

    @property
    def halo(self) -> int:
        """How many pixels beyond a crop's border affect its result: one per 3x3 convolution."""
        return sum(isinstance(m, (nn.Conv2d, nn.Conv3d)) for m in self.modules())

    def _reset_parameters(self) -> None:
        """He initialisation; blocks start near the identity, the output near zero. Our choice."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                last = block.conv2 if isinstance(block.norm2, nn.Identity) else block.norm2
                last.weight.data *= 0.1
        cast(nn.Conv2d, self.tail[-1]).weight.data *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore the centre frame.

        Args:
            x: blurry windows (n, t, 3, h, w), RGB in [0, 1], any h and w. With ``num_frames=1``
                images (n, 3, h, w), as the data set returns them, are accepted, too.

        Returns:
            Restored centre frames (n, 3, h, w), RGB, not clamped.
        """
        x = as_windows(self, x)
        frames = rgb_to_luma(x) if self.color == 'luma' else x
        maps = self.head(frames.transpose(1, 2)).squeeze(2)
        # the first operand of each following sum determines the memory layout of the result
        maps = maps.contiguous(memory_format=torch.channels_last)
        out = self.tail(maps + self.body(maps))

        centre = x[:, self.num_frames // 2]
        if self.residual:
            return centre + out
        if self.color == 'rgb':
            return out
        return centre + (out - frames[:, self.num_frames // 2])  # new luma, old chroma


def require_window(num_frames: int, color: str) -> None:
    """Raise a ValueError unless ``num_frames`` is odd and the colour is 'luma' or 'rgb'."""
    if num_frames < 1 or num_frames % 2 == 0:
        raise ValueError(f'num_frames must be odd, so that a centre frame exists, got {num_frames}')
    if color not in ('luma', 'rgb'):
        raise ValueError(f"color must be 'luma' or 'rgb', got {color!r}")


def as_windows(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the input of a network as windows (n, t, 3, h, w).

    Args:
        network: a network with ``num_frames``; errors name its class.
        x: windows; with ``num_frames=1`` also images (n, 3, h, w).

    Raises:
        ValueError: for a wrong number of axes, frames or channels.
    """
    frames = network.num_frames
    if x.ndim == 4 and frames == 1:
        x = x.unsqueeze(1)
    if x.ndim != 5 or x.shape[1] != frames or x.shape[2] != 3:
        raise ValueError(
            f'{type(network).__name__}(num_frames={frames}) takes RGB windows '
            f'(n, {frames}, 3, h, w), got {tuple(x.shape)}'
            + (f': {x.shape[1]} frames, {x.shape[2]} channels' if x.ndim == 5 else '')
        )
    return x


class ResidualBlock(nn.Module):
    """conv-norm-ReLU-conv-norm plus the identity; keeps the shape (n, c, h, w)."""

    def __init__(self, channels: int, norm: str | None) -> None:
        super().__init__()
        layer = nn.BatchNorm2d if norm == 'BN' else nn.Identity
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = layer(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = layer(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(out))
