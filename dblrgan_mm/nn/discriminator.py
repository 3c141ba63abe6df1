"""The discriminator for frame sequences."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn


class FrameSequenceDiscriminator(nn.Module):
    """Classifies a clip as sharp or as containing a restored frame.

    It is a VGG-like binary classifier: 3x3 convolutions with batch normalisation and ReLU (2 with
    64 maps, 3 with 128, 4 with 256, 5 with 512), then two fully connected layers with 4096 units
    and an output layer. This follows the paper's image discriminator (Zhang et al., IEEE TIP 28(1),
    2019). With ``num_frames=1`` it judges images, as in the paper.

    These parts are our own:

    - The first group of convolutions processes each frame separately and the second joins the maps
      of all frames, so that the sharpness of a frame can be compared with that of its neighbours.
    - The last convolution of each group has stride 2.
    - The maps are averaged over space before the fully connected layers, so that any crop size
      works.
    - One logit replaces the softmax over two classes; the decision is the same.
    - The initialisation.

    Args:
        num_frames: number t of frames in a clip.
        in_channels: number c of channels of a frame.
        conv_channels: numbers of maps of the convolutions, one sequence per group.
        fc_channels: number of units of the two hidden fully connected layers.

    Raises:
        ValueError: if ``num_frames`` is below 1, and on a forward pass with the wrong number of
            axes, frames or channels.

    Example:
        >>> FrameSequenceDiscriminator(num_frames=5)(torch.rand(2, 5, 3, 64, 64)).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        num_frames: int = 5,
        in_channels: int = 3,
        conv_channels: Sequence[Sequence[int]] = (
            (64,) * 2,
            (128,) * 3,
            (256,) * 4,
            (512,) * 5,
        ),
        fc_channels: int = 4096,
    ) -> None:
        super().__init__()
        if num_frames < 1:
            raise ValueError(f'a clip has at least one frame, got num_frames={num_frames}')
        self.num_frames = num_frames
        self.in_channels = in_channels

        first, *others = conv_channels
        self.frame_features = _conv_group(in_channels, first)
        groups, channels = [], num_frames * first[-1]
        for group in others:
            groups.append(_conv_group(channels, group))
            channels = group[-1]
        self.features = nn.Sequential(*groups, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Linear(channels, fc_channels),
            nn.ReLU(inplace=True),
            nn.Linear(fc_channels, fc_channels),
            nn.ReLU(inplace=True),
            nn.Linear(fc_channels, 1),
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        cast(nn.Linear, self.classifier[-1]).weight.data *= 0.1  # start undecided
        # convolutions are faster with this layout, on GPUs and CPUs
        self.frame_features.to(memory_format=torch.channels_last)
        self.features.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        """Classify clips.

        Args:
            x: clips (n, t, c, h, w) in [0, 1], at least 16x16 pixels with the default groups; with
                ``num_frames=1`` also images (n, c, h, w). Or a sequence of parts of such clips, in
                temporal order. In evaluation mode, the first group processes the parts one by one,
                and stores nothing for a backward pass through parts that need no gradient.

        Returns:
            Logits (n, 1): above 0 for 'sharp', below 0 for 'restored'.
        """
        parts = [x] if isinstance(x, torch.Tensor) else list(x)
        if parts[0].ndim == 4 and self.num_frames == 1:
            parts = [part.unsqueeze(1) for part in parts]
        if self.training and len(parts) > 1:
            parts = [torch.cat(parts, dim=1)]
        if (
            any(part.ndim != 5 or part.shape[2] != self.in_channels for part in parts)
            or sum(part.shape[1] for part in parts) != self.num_frames
        ):
            raise ValueError(
                f'FrameSequenceDiscriminator(num_frames={self.num_frames}, '
                f'in_channels={self.in_channels}) takes clips '
                f'(n, {self.num_frames}, {self.in_channels}, h, w), got '
                + ' and '.join(str(tuple(part.shape)) for part in parts)
            )
        maps = [self._side_by_side(self.frame_features(p.flatten(0, 1)), len(p)) for p in parts]
        return self.classifier(self.features(torch.cat(maps, dim=1)))

    @staticmethod
    def _side_by_side(maps: torch.Tensor, clips: int) -> torch.Tensor:
        """Rearrange the maps of frames (n t, c, h, w) to maps of clips (n, t c, h, w).

        The maps and their gradients stay channels-last. With plain flattening, the gradients would
        have torch's default layout, with which all earlier operations take twice as long.
        """
        maps = maps.permute(0, 2, 3, 1).unflatten(0, (clips, -1))
        return maps.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def _conv_group(in_channels: int, channels: Sequence[int]) -> nn.Sequential:
    """Build conv-BN-ReLU for each number of channels; the last convolution has stride 2."""
    layers: list[nn.Module] = []
    for i, out_channels in enumerate(channels):
        stride = 2 if i == len(channels) - 1 else 1
        layers += [
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers)
