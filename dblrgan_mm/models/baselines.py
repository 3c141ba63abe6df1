"""MMagic's restorers where they need a change to deblur: registered beside DBLRNet."""

import torch
from mmagic.models.editors import BasicVSRPlusPlusNet, EDVRNet
from mmagic.registry import MODELS
from torch import nn
from torch.nn import functional as F


@MODELS.register_module()
class EDVRDeblurNet(EDVRNet):
    """MMagic's ``EDVRNet``, which enlarges four times, for frames that keep their size.

    The network sees each 4x4 block of pixels as one pixel of 16 times the channels, and what it
    adds up at full size is added to the centre frame. (The authors of EDVR shrink by two
    convolutions of stride 2 in this place, which MMagic's network lacks.) Frames whose sides are
    no multiples of 16 are continued by replication, and cut again.

    Args:
        in_channels, **kwargs: as in ``EDVRNet``.
    """

    def __init__(self, in_channels: int = 3, **kwargs) -> None:
        super().__init__(16 * in_channels, kwargs.pop('out_channels', in_channels), **kwargs)
        self.img_upsample = nn.PixelShuffle(4)  # of the centre frame, to what it was

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Windows (n, t, c, h, w) to centre frames (n, c, h, w)."""
        height, width = x.shape[-2:]
        blocks = F.pixel_unshuffle(continued(x, 16), 4)
        return super().forward(blocks)[..., :height, :width]


@MODELS.register_module()
class BasicVSRPlusPlusDeblurNet(BasicVSRPlusPlusNet):
    """MMagic's ``BasicVSRPlusPlusNet`` without enlargement, for frames of any size.

    MMagic's refuses frames of fewer than 256 rows or columns, and fails where these are no
    multiples of 4; here they are continued by replication, and cut again.

    Args:
        **kwargs: as in ``BasicVSRPlusPlusNet``, without ``is_low_res_input``.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(is_low_res_input=False, **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Clips (n, t, c, h, w) to clips of the same shape."""
        height, width = x.shape[-2:]
        return super().forward(continued(x, 4, least=256))[..., :height, :width]


def continued(x: torch.Tensor, multiple: int, least: int = 0) -> torch.Tensor:
    """Frames (n, t, c, h, w) replicated to the right and below to sides of a multiple, at least
    ``least``."""
    height, width = (max(least, -(-side // multiple) * multiple) for side in x.shape[-2:])
    pad = (0, width - x.shape[-1], 0, height - x.shape[-2])
    return F.pad(x.flatten(0, 1), pad, mode='replicate').unflatten(0, x.shape[:2])
