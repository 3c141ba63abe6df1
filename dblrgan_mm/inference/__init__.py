"""Restore videos with a trained DBLRNet or MultiScaleDBLRNet, without importing MMagic.

``Deblurrer``, and with it ``torch``, is imported on first use, so that commands can answer
``--help`` at once.
"""

__all__ = ['Deblurrer']


def __getattr__(name: str):
    if name == 'Deblurrer':
        from dblrgan_mm.inference.deblurrer import Deblurrer

        return Deblurrer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
