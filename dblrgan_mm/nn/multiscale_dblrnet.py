"""MultiScaleDBLRNet: the idea of DBLRNet in a network with several scales."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dblrgan_mm.nn.alignment import PATH, align_frames
from dblrgan_mm.nn.color import rgb_to_luma, unit_luma
from dblrgan_mm.nn.dblrnet import ResidualBlock, as_windows, require_window
from dblrgan_mm.nn.module_list import ModuleList

# These give the maps a standard deviation of about 1: luma has a mean of about 0.45 and a standard
# deviation of about 0.25.
MEAN, INPUT_SCALE, OUTPUT_SCALE = 0.45, 4.0, 0.1


class MultiScaleDBLRNet(nn.Module):
    """Restores the centre frame of a window of blurry frames, at a low cost. Our own design.

    It keeps the idea of DBLRNet (Zhang et al., IEEE TIP 28(1), 2019): a 3D convolution without
    temporal padding merges unaligned frames, followed by residual blocks with long skip
    connections. The blocks work at several scales, as in a U-Net (Ronneberger et al., MICCAI 2015):
    at coarse scales a 3x3 convolution covers a large area at a low cost. The network predicts the
    difference to the centre frame, so that details of the frame are not lost. There is no
    normalisation.

    With the default arguments it has 0.485 M parameters (``color='rgb'``: 0.487 M) and needs 44.5
    thousand multiply-accumulates per pixel, 1/42 of DBLRNet's; with ``align`` 45.1 thousand, not
    counting the alignment itself. Frames are padded on the right and at the bottom, by replication,
    to a multiple of the coarsest scale.

    Args:
        num_frames: number t of frames in the window, odd.
        color: 'luma' restores Y and keeps the centre frame's chroma; 'rgb' restores all three
            channels.
        channels: number of maps at each scale, from full resolution to the coarsest scale. Each
            scale has half the rows and columns of the previous one.
        num_blocks: number of residual blocks at each scale on the way down to the coarsest scale
            and back up to full resolution, ``2 * len(channels) - 1`` numbers.
        align: whether the other frames are first warped to the centre frame, and the centre frame
            also given shifted along its motion (``align_frames``).

    Raises:
        ValueError: for an invalid argument, and on a forward pass with the wrong number of axes,
            frames or channels.

    Example:
        >>> MultiScaleDBLRNet()(torch.rand(1, 5, 3, 50, 70)).shape
        torch.Size([1, 3, 50, 70])
    """

    def __init__(
        self,
        num_frames: int = 5,
        color: str = 'luma',
        channels: Sequence[int] = (16, 32, 48, 64),
        num_blocks: Sequence[int] = (1, 1, 2, 3, 2, 1, 3),
        align: bool = False,
    ) -> None:
        super().__init__()
        require_window(num_frames, color)
        channels, num_blocks = tuple(channels), tuple(num_blocks)
        if len(channels) < 2 or len(num_blocks) != 2 * len(channels) - 1:
            raise ValueError(
                'channels must have one number per scale, for two scales or more, and num_blocks '
                f'one per scale on the way down and up again, got {channels} and {num_blocks}'
            )
        if min(channels) < 1 or min(num_blocks) < 0:
            raise ValueError(
                f'channels must be positive and num_blocks not negative, got {channels} and '
                f'{num_blocks}'
            )
        self.num_frames = num_frames
        self.color = color
        self.align = align
        if align:  # stored, so that weights are never used without the alignment they need
            self.register_buffer('alignment', torch.tensor(PATH))
        inputs = num_frames + (len(PATH) if align and num_frames > 1 else 0)

        def blocks(scale: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels[scale], None) for _ in range(count)))

        colors = 1 if color == 'luma' else 3
        coarsest = len(channels) - 1
        down, up = num_blocks[:coarsest], num_blocks[:coarsest:-1]
        steps = list(itertools.pairwise(channels))
        self.head = nn.Conv3d(colors, channels[0], (inputs, 3, 3), padding=(0, 1, 1))
        self.encoders = ModuleList(blocks(*scale) for scale in enumerate(down))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in steps)
        self.body = blocks(coarsest, num_blocks[coarsest])
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in steps)
        self.decoders = ModuleList(blocks(*scale) for scale in enumerate(up))
        self.tail = nn.Conv2d(channels[0], colors, 3, padding=1)
        self._reset_parameters()
        for part in (self.encoders, self.down, self.body, self.up, self.decoders, self.tail):
            part.to(memory_format=torch.channels_last)

    @property
    def multiple(self) -> int:
        """The rows and columns of frames are padded to a multiple of this."""
        return 2 ** len(self.down)

    @property
    def halo(self) -> int:
        """How many pixels beyond a crop's border affect its result, a multiple of :attr:`multiple`.

        Valid for crops whose borders are at multiples of :attr:`multiple`, counted from the top
        left corner of the frame. With ``align``, it is the halo of :meth:`difference` only: frames
        must be aligned as a whole.
        """
        reach = 1  # of the tail; below, in pixels of the current scale
        for decoder in self.decoders:
            reach = -(-(reach + 2 * len(decoder)) // 2)
        reach += 2 * len(self.body)
        for encoder in reversed(self.encoders):
            reach = 2 * reach + 2 * len(encoder)
        return -(-(reach + 1) // self.multiple) * self.multiple

    def _reset_parameters(self) -> None:
        """He initialisation; blocks start near the identity, the output near zero. Our choice."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
                # each output of a transposed convolution with stride 2 uses one of its four taps
                transposed = isinstance(module, nn.ConvTranspose2d)
                inputs = module.in_channels if transposed else module.weight[0].numel()
                gain = 2.0 if module is self.head else 1.0
                nn.init.normal_(module.weight, std=(gain / inputs) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.conv1.weight.data *= 2**0.5  # before a ReLU
                module.conv2.weight.data *= 0.1
        self.tail.weight.data *= 0.01

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore the centre frame.

        Args:
            x: blurry windows (n, t, 3, h, w), RGB in [0, 1], any h and w. With ``num_frames=1``
                images (n, 3, h, w), as the data set returns them, are accepted, too.

        Returns:
            Restored centre frames (n, 3, h, w), RGB, not clamped.
        """
        x = as_windows(self, x)
        centre = x[:, self.num_frames // 2]
        frames = rgb_to_luma(x) if self.color == 'luma' else x
        if self.align:
            frames = align_frames(frames, unit_luma(x))
        return centre + self.difference(frames)

    def difference(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the difference to the centre frame, (n, c, h, w), for windows (n, t, c, h, w).

        With ``align``, these are the result of ``align_frames``.
        """
        height, width = frames.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        frames = F.pad(frames.transpose(1, 2), (*pad, 0, 0), mode='replicate')
        maps = self.head((frames - MEAN) * INPUT_SCALE).squeeze(2)
        maps = maps.contiguous(memory_format=torch.channels_last)
        skips = []
        for encoder, down in zip(self.encoders, self.down, strict=True):
            skips.append(encoder(maps))
            maps = down(skips[-1])
        maps = self.body(maps)
        for up, decoder, skip in zip(
            reversed(self.up), reversed(self.decoders), reversed(skips), strict=True
        ):
            maps = decoder(skip + up(maps))
        return OUTPUT_SCALE * self.tail(maps)[..., :height, :width]
