"""Networks, losses and the DBLRGAN model, registered in ``mmagic.registry.MODELS``.

Imports ``mmagic.models``, which takes ten seconds. ``dblrgan_mm.nn`` has the networks and losses
without it.
"""

from dblrgan_mm import compat

compat.apply()

from dblrgan_mm.models import baselines, clips_on_device  # noqa: F401
from dblrgan_mm.models.averaging import ForeachExponentialMovingAverage
from dblrgan_mm.models.dblrgan import DBLRGAN
from dblrgan_mm.models.networks import (
    AdversarialLoss,
    ContentLoss,
    DBLRNet,
    FrameSequenceDiscriminator,
    MultiScaleDBLRNet,
)
from dblrgan_mm.nn import rgb_to_luma

__all__ = [
    'DBLRGAN',
    'AdversarialLoss',
    'ContentLoss',
    'DBLRNet',
    'ForeachExponentialMovingAverage',
    'FrameSequenceDiscriminator',
    'MultiScaleDBLRNet',
    'rgb_to_luma',
]
