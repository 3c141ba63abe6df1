"""Video deblurring with DBLRNet and DBLRGAN as a plugin for MMagic.

Importing this package alone registers nothing and takes no time. Each subpackage registers its
parts when it is imported. In a config, ``custom_imports = dict(imports=['dblrgan_mm'], ...)`` is
therefore not enough: list ``dblrgan_mm.models``, ``dblrgan_mm.datasets``,
``dblrgan_mm.evaluation`` and ``dblrgan_mm.engine``, as far as the config uses them.
"""

__version__ = '0.1.0'
