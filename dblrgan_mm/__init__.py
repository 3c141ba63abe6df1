"""Video deblurring with DBLRNet and DBLRGAN as a plugin for MMagic.

Importing this package alone registers nothing and takes no time. Each subpackage registers its
parts when it is imported. In a config, ``custom_imports = dict(imports=['dblrgan_mm'], ...)`` is
therefore not enough: list ``dblrgan_mm.models``, ``dblrgan_mm.datasets``,
``dblrgan_mm.evaluation`` and ``dblrgan_mm.engine``, as far as the config uses them.

Each of these four also applies the patches in ``dblrgan_mm.compat``, once and for the whole
process. One of them concerns other projects, too: MMEngine then loads all checkpoints with
``weights_only=True``.
"""

import os

__version__ = '0.1.0'

PARENT = os.getppid()  # read early, because the parent (e.g. torchrun) may die


def config(name: str) -> str:
    """Return the path of a config of this package, for the configs of other projects.

    Args:
        name: its path below ``configs/``, without ``.py``.

    Raises:
        LaunchError: if there is no such config; lists the names that are most similar.

    Example:
        ``_base_ = [__import__('dblrgan_mm').config('dblrgan_gopro')]``, since MMEngine evaluates
        ``_base_`` before the imports of a config.
    """
    from dblrgan_mm.resources import find_config

    return find_config(name)
