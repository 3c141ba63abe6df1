"""The networks and losses of ``dblrgan_mm.nn``, registered with MMagic.

The networks also accept MMEngine's ``init_cfg``, e.g. ``dict(type='Pretrained', ...)``.
"""

from mmagic.registry import MODELS
from mmengine.model import BaseModule

from dblrgan_mm import nn
from dblrgan_mm.nn import AdversarialLoss, ContentLoss


class _InitCfg:
    """Adds ``init_cfg`` to a network that is also a ``BaseModule``."""

    def __init__(self, *args, init_cfg: dict | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg


@MODELS.register_module()
class DBLRNet(_InitCfg, nn.DBLRNet, BaseModule):
    __doc__ = nn.DBLRNet.__doc__


@MODELS.register_module()
class MultiScaleDBLRNet(_InitCfg, nn.MultiScaleDBLRNet, BaseModule):
    __doc__ = nn.MultiScaleDBLRNet.__doc__


@MODELS.register_module()
class FrameSequenceDiscriminator(_InitCfg, nn.FrameSequenceDiscriminator, BaseModule):
    __doc__ = nn.FrameSequenceDiscriminator.__doc__


MODELS.register_module(module=ContentLoss)
MODELS.register_module(module=AdversarialLoss)
