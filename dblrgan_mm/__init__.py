"""Video deblurring with DBLRNet and DBLRGAN as a plugin for MMagic.

Importing this package costs nothing. The parts register themselves when their subpackage is
imported: ``custom_imports = dict(imports=['dblrgan_mm'], ...)`` is not enough, name
``dblrgan_mm.models``, ``dblrgan_mm.datasets``, ``dblrgan_mm.evaluation`` and
``dblrgan_mm.engine``, as far as a config uses them.
"""

__version__ = '0.1.0'
