"""MMagic's restorers that need a change for deblurring."""

import torch
from mmagic.models.editors import BasicVSRPlusPlusNet, EDVRNet
from mmagic.registry import MODELS
from torch import nn
from torch.nn import functional as F


@MODELS.register_module()
class EDVRDeblurNet(EDVRNet):
    """MMagic's ``EDVRNet``, which enlarges frames four times, changed to keep the frame size.

    Each 4x4 block of input pixels becomes one pixel with 16 times the channels, and the network's
    output at full size is added to the centre frame. (EDVR's authors downscale with two
    convolutions of stride 2 here, which MMagic's network lacks.) Frames whose sides are not
    multiples of 16 are padded by replication, and the result is cropped.

    Args:
        in_channels, **kwargs: as in ``EDVRNet``.
    """

    def __init__(self, in_channels: int = 3, **kwargs) -> None:
        super().__init__(16 * in_channels, kwargs.pop('out_channels', in_channels), **kwargs)
        self.img_upsample = nn.PixelShuffle(4)  # reassembles the original centre frame

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore the centre frames (n, c, h, w) of windows (n, t, c, h, w)."""
        height, width = x.shape[-2:]
        blocks = F.pixel_unshuffle(continued(x, 16), 4)
        return super().forward(blocks)[..., :height, :width]


@MODELS.register_module()
class BasicVSRPlusPlusDeblurNet(BasicVSRPlusPlusNet):
    """MMagic's ``BasicVSRPlusPlusNet`` without enlargement, for frames of any size.

    MMagic's network refuses frames with fewer than 256 rows or columns, and fails if these are not
    multiples of 4. Here such frames are padded by replication, and the result is cropped.

    Args:
        **kwargs: as in ``BasicVSRPlusPlusNet``, without ``is_low_res_input``.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(is_low_res_input=False, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore clips (n, t, c, h, w); the result has the same shape."""
        height, width = x.shape[-2:]
        return super().forward(continued(x, 4, least=256))[..., :height, :width]


def continued(x: torch.Tensor, multiple: int, least: int = 0) -> torch.Tensor:
    """Pad frames (n, t, c, h, w) on the right and at the bottom by replication.

    The sides become multiples of ``multiple``, or ``least`` if that is larger.
    """
    height, width = (max(least, -(-side // multiple) * multiple) for side in x.shape[-2:])
    pad = (0, width - x.shape[-1], 0, height - x.shape[-2])
    return F.pad(x.flatten(0, 1), pad, mode='replicate').unflatten(0, x.shape[:2])
