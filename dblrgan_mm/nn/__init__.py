"""The networks, losses and luma of this project, in plain torch.

``dblrgan_mm.models`` registers them with MMagic.
"""

from dblrgan_mm.nn.alignment import align_frames
from dblrgan_mm.nn.color import rgb_to_luma
from dblrgan_mm.nn.dblrnet import DBLRNet
from dblrgan_mm.nn.discriminator import FrameSequenceDiscriminator
from dblrgan_mm.nn.losses import AdversarialLoss, ContentLoss
from dblrgan_mm.nn.multiscale_dblrnet import MultiScaleDBLRNet

__all__ = [
    'AdversarialLoss',
    'ContentLoss',
    'DBLRNet',
    'FrameSequenceDiscriminator',
    'MultiScaleDBLRNet',
    'align_frames',
    'rgb_to_luma',
]
