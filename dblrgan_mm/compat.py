"""Patches that let MMagic 1.2 run on current PyTorch and NumPy versions.

Every subpackage that uses MMagic calls :func:`apply` before it imports MMagic. Each patch first
checks whether it is needed, changes as little as possible, and is logged once (logger 'dblrgan_mm',
level INFO; the tools also list the patches in the log of the run). On MMagic's own stack (torch
2.1, NumPy 1.26, compiled mmcv 2.1) only the patch for loading checkpoints applies.
"""

import functools
import importlib.util
import logging
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

logger = logging.getLogger('dblrgan_mm')

_INSTALL_MMCV = (
    'mmcv is missing. Install mmcv-lite, which needs no compiler '
    '(pip install "mmcv-lite>=2.1,<2.2"), or a compiled mmcv (mmcv>=2.0,<2.2 for your torch)'
)
_applied: list[str] | None = None


def apply() -> list[str]:
    """Apply the patches that this installation needs, once per process.

    Returns:
        The names of the patches that were applied.

    Raises:
        ImportError: if no mmcv is installed, or if torch does not support the installed NumPy. The
            message says what to install.
    """
    global _applied
    if _applied is None:
        if importlib.util.find_spec('mmcv') is None:
            raise ImportError(_INSTALL_MMCV)
        _check_numpy()
        patches = (_numpy_bool8, _mmcv_ops, safe_globals, _safe_loading)
        _applied = [patch.__name__.strip('_') for patch in patches if patch()]
    return _applied


def _check_numpy() -> None:
    """Refuse NumPy 2 with torch before 2.3: they import, but the first conversion fails."""
    import numpy as np
    import torch

    major, minor = (int(part) for part in torch.__version__.split('.')[:2])
    if (major, minor) < (2, 3) and int(np.__version__.split('.')[0]) >= 2:
        raise ImportError(
            f'torch {torch.__version__} does not support NumPy {np.__version__}. '
            "Run pip install 'numpy<2', or install torch 2.3 or later"
        )


def _numpy_bool8() -> bool:
    """Restore ``np.bool8``, removed in NumPy 2, for the import of mmagic/utils/trans_utils.py."""
    import numpy as np

    if hasattr(np, 'bool8'):
        return False
    np.bool8 = np.bool_  # type: ignore[attr-defined]
    logger.info('compat: numpy.bool8 restored as an alias of numpy.bool_ (for MMagic 1.2)')
    return True


class MissingOp:
    """Placeholder for a compiled mmcv op: can be imported, but raises an error when called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f'the compiled mmcv op {self.name!r} is not available in mmcv-lite. '
            'To use it, install a compiled mmcv (mmcv>=2.0,<2.2) built for your torch. '
            'EDVR and BasicVSR++ do not need it: they use torchvision instead'
        )


def _mmcv_ops() -> bool:
    """Make ``mmcv.ops`` importable in mmcv-lite, which lacks the compiled ``mmcv._ext``.

    A substitute ``_ext`` provides a :class:`MissingOp` under every name. The two deformable
    convolutions that restorers use are computed by torchvision, which has the same argument layout
    and also runs on CUDA.
    """
    if importlib.util.find_spec('mmcv._ext') is not None:
        return False
    ext = types.ModuleType('mmcv._ext', 'Substitute by dblrgan_mm.compat, without compiled ops.')

    def missing(name: str) -> MissingOp:
        if name.startswith('__'):
            raise AttributeError(name)
        return MissingOp(name)

    ext.__getattr__ = missing  # type: ignore[method-assign]
    # for a module without a spec, the next importlib.util.find_spec() would raise an error
    ext.__spec__ = importlib.util.spec_from_loader('mmcv._ext', loader=None)
    sys.modules['mmcv._ext'] = ext

    import mmcv.ops
    from mmcv.ops import deform_conv, modulated_deform_conv

    for function, module in (
        (deform_conv2d, deform_conv),
        (modulated_deform_conv2d, modulated_deform_conv),
    ):
        for namespace in (module, mmcv.ops):
            setattr(namespace, function.__name__, function)
    logger.info('compat: deformable convolution by torchvision (mmcv has no compiled ops)')
    return True


def _pair(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


def deform_conv2d(
    input,
    offset,
    weight,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    deform_groups=1,
    bias=False,
    im2col_step=32,
):
    """mmcv's ``deform_conv2d``, computed by torchvision.

    Shapes are as in mmcv: input (n, c, h, w), offset (n, deform_groups·2·kh·kw, h', w'), weight
    (out, c / groups, kh, kw). ``groups`` and ``deform_groups`` follow from the shapes, and
    ``im2col_step`` only affects the memory of the compiled op, so the three are ignored.
    """
    del groups, deform_groups, im2col_step
    if bias:
        raise ValueError('deform_conv2d has no bias, as in mmcv')
    return _torchvision_deform(input, offset, None, weight, None, stride, padding, dilation)


def modulated_deform_conv2d(
    input,
    offset,
    mask,
    weight,
    bias=None,
    stride=1,
    padding=0,
    dilation=1,
    groups=1,
    deform_groups=1,
):
    """mmcv's ``modulated_deform_conv2d``, computed by torchvision; shapes are as in mmcv."""
    del groups, deform_groups
    return _torchvision_deform(input, offset, mask, weight, bias, stride, padding, dilation)


def _torchvision_deform(input, offset, mask, weight, bias, stride, padding, dilation):
    from torchvision.ops import deform_conv2d as deform

    # under autocast, only the offset has been cast so far, and mmcv uses its dtype
    dtype = offset.dtype
    return deform(
        input.to(dtype),
        offset,
        weight.to(dtype),
        bias=None if bias is None else bias.to(dtype),
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        mask=None if mask is None else mask.to(dtype),
    )


def safe_globals() -> bool:
    """Allow ``torch.load(weights_only=True)``, torch 2.6's default, for MMEngine's checkpoints.

    They hold log histories (``HistoryBuffer`` with NumPy arrays and scalars), which are data, not
    code. Only these types are allow-listed. A pickled ``HistoryBuffer`` also looks up its own
    methods with ``getattr``, which could be used to run code. :func:`_history_statistic` replaces
    it.
    """
    import torch

    add_safe_globals = getattr(torch.serialization, 'add_safe_globals', None)
    if add_safe_globals is None:  # torch < 2.4
        return False
    import _codecs

    import numpy as np
    from mmengine.logging import HistoryBuffer

    array = np.zeros(1)
    reconstruct, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    # since NumPy 1.25, each dtype has its own class
    dtypes = {type(np.dtype(code)) for code in '?bhilqfdBHILQe'}
    # torch 2.4 lacks _codecs.encode, which bytes are pickled with
    add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, bytes, _codecs.encode, *dtypes])
    for package in ('numpy.core', 'numpy._core'):  # NumPy 1 and 2
        module = f'{package}.multiarray'
        add_safe_globals(
            [_named(reconstruct, module, '_reconstruct'), _named(scalar, module, 'scalar')]
        )
    add_safe_globals([_named(_history_statistic, 'builtins', 'getattr')])
    logger.info("compat: MMEngine's log history may be read from checkpoints (weights_only=True)")
    return True


@functools.cache
def _named(function: Callable, module: str, name: str) -> Callable:
    """Return a function for the allow-list that replaces another one, ``module.name``.

    Since torch 2.6, the list also takes pairs (function, name). With such a pair, every load of the
    process fails in torch 2.4 and 2.5.
    """

    def call(*args: Any) -> Any:
        return function(*args)

    call.__module__, call.__name__, call.__qualname__ = module, name, name
    return call


def _history_statistic(owner: Any, name: str) -> Callable:
    """``getattr`` for unpickling, limited to the four statistics of ``HistoryBuffer``."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(
            f'the checkpoint asks for {name!r} of {owner!r}: refused, it may contain code'
        )
    return getattr(HistoryBuffer, name)


def _safe_loading() -> bool:
    """Prevent MMEngine from running code that is stored in checkpoints.

    For files, MMEngine does not set ``weights_only``, and torch's default was False before 2.6. For
    URLs, it sets False in all versions. On a resume, it also runs the text ``meta['config']``,
    written by its early versions, as a Python file. This patch loads files and URLs with
    ``weights_only=True`` and drops that text. The loaders for pavi and s3 addresses stay unchanged.
    """
    import os

    import torch
    from mmengine.runner import checkpoint

    def without_config(content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get('meta'), dict):
            content['meta'].pop('config', None)
        return content

    def load_from_local(filename: str, map_location: Any) -> Any:
        filename = os.path.expanduser(filename)
        if not os.path.isfile(filename):
            raise FileNotFoundError(f'{filename} can not be found.')
        return without_config(torch.load(filename, map_location, weights_only=True))

    def load_url(
        url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
    ) -> Any:
        folder = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
        path = os.path.join(folder, os.path.basename(url.partition('?')[0]))
        if not os.path.isfile(path):
            os.makedirs(folder, exist_ok=True)
            torch.hub.download_url_to_file(url, path, progress=progress)
        return load_from_local(path, map_location)

    checkpoint.CheckpointLoader.register_scheme('', load_from_local, force=True)
    checkpoint.load_from_local = load_from_local  # for the other schemes
    checkpoint.load_url = load_url
    logger.info('compat: checkpoints are loaded with weights_only=True')
    return True


if __name__ == '__main__':
    # python -m dblrgan_mm.compat SCRIPT [ARGS]: run a script, such as one of MMagic's own tools,
    # with the patches applied
    import runpy

    from dblrgan_mm import compat

    if len(sys.argv) < 2:
        sys.exit('usage: python -m dblrgan_mm.compat SCRIPT [ARGUMENTS]')
    compat.apply()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
