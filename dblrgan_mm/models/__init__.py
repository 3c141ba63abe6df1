"""Networks, losses and the DBLRGAN model, registered in ``mmagic.registry.MODELS``.

``DBLRGAN`` and the baselines build on ``mmagic.models``, which takes ten seconds to import. To keep
the import of the networks and losses fast, they are registered at the first look-up in the
registry, which imports ``mmagic.models`` anyway.
"""

from dblrgan_mm import compat

compat.apply()

from mmagic.registry import MODELS

from dblrgan_mm.models.averaging import ForeachExponentialMovingAverage
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

if MODELS._imported:  # a look-up has happened already, so register now
    from dblrgan_mm.models import baselines, clips_on_device  # noqa: F401
    from dblrgan_mm.models.dblrgan import DBLRGAN
else:
    MODELS._locations.extend(
        f'dblrgan_mm.models.{name}' for name in ('dblrgan', 'baselines', 'clips_on_device')
    )


def __getattr__(name: str):
    if name == 'DBLRGAN':
        from dblrgan_mm.models.dblrgan import DBLRGAN

        return DBLRGAN
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
