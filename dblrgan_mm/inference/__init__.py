"""Restoring videos with a trained DBLRNet. Imports no part of MMagic.

``Deblurrer`` and ``torch`` with it are imported when they are first used, so that a command can
answer ``--help`` at once.
"""

__all__ = ['Deblurrer']


def __getattr__(name: str):
    if name == 'Deblurrer':
        from dblrgan_mm.inference.deblurrer import Deblurrer

        return Deblurrer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
