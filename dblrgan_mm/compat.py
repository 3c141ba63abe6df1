"""What MMagic 1.2 needs to run on today's PyTorch and NumPy.

:func:`apply` is called by every subpackage that touches MMagic, before MMagic is imported. Each
patch looks first whether it is needed, touches no more than it must, and says so once in the log
('dblrgan_mm', level INFO; the tools name the patches in the run's own log, too). On MMagic's
own stack (torch 2.1, NumPy 1.26, compiled mmcv 2.1) only that of loading checkpoints applies.
"""

import importlib.util
import logging
import sys
import types
from collections.abc import Callable
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
        The names of the patches that were applied; empty on MMagic's own stack.

    Raises:
        ImportError: if no mmcv is installed; says which to install.
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
    """torch before 2.3 imports beside NumPy 2, and then fails in the first conversion."""
    import numpy as np
    import torch

    major, minor = (int(part) for part in torch.__version__.split('.')[:2])
    if (major, minor) < (2, 3) and np.__version__ >= '2':
        raise ImportError(
            f'torch {torch.__version__} cannot use NumPy {np.__version__}: '
            "pip install 'numpy<2', or a torch from 2.3 on"
        )


def _numpy_bool8() -> bool:
    """NumPy 2 dropped ``np.bool8``, which mmagic/utils/trans_utils.py names at import."""
    import numpy as np

    if hasattr(np, 'bool8'):
        return False
    np.bool8 = np.bool_
    logger.info('compat: numpy.bool8 restored as an alias of numpy.bool_ (for MMagic 1.2)')
    return True


class MissingOp:
    """Stands in for a compiled mmcv op: can be looked up and imported, refuses to run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f'the compiled mmcv op {self.name!r} is not available: this is mmcv-lite. '
            'Install a compiled mmcv (mmcv>=2.0,<2.2) built for your torch to use it; '
            'the restorers EDVR and BasicVSR++ run without it, by torchvision'
        )


def _mmcv_ops() -> bool:
    """mmcv-lite ships ``mmcv.ops`` without its compiled module ``mmcv._ext``.

    An ``_ext`` of :class:`MissingOp` makes the package importable, and the two deformable
    convolutions that restorers use are computed by torchvision, which has the same argument
    layout and runs on CUDA too.
    """
    if importlib.util.find_spec('mmcv._ext') is not None:
        return False
    ext = types.ModuleType('mmcv._ext', 'Stand-in of dblrgan_mm.compat: no compiled op.')

    def missing(name: str) -> MissingOp:
        if name.startswith('__'):
            raise AttributeError(name)
        return MissingOp(name)

    ext.__getattr__ = missing
    # a module without a spec makes importlib.util.find_spec() raise for whoever asks next
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


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
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
    """mmcv's ``deform_conv2d`` computed by torchvision.

    Shapes as in mmcv: input (n, c, h, w), offset (n, deform_groups·2·kh·kw, h', w'), weight
    (out, c / groups, kh, kw). ``groups`` and ``deform_groups`` follow from the shapes;
    ``im2col_step`` only set the compiled op's memory.
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
    """mmcv's ``modulated_deform_conv2d`` computed by torchvision; shapes as in mmcv."""
    del groups, deform_groups
    return _torchvision_deform(input, offset, mask, weight, bias, stride, padding, dilation)


def _torchvision_deform(input, offset, mask, weight, bias, stride, padding, dilation):
    from torchvision.ops import deform_conv2d as deform

    # under autocast the offset is the tensor that was cast, and mmcv follows it
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
    """torch 2.6 loads with ``weights_only=True``, which refuses MMEngine's checkpoints.

    They hold log histories (``HistoryBuffer`` over NumPy arrays and scalars): data, no code. Just
    these types are allow-listed. A pickled ``HistoryBuffer`` also looks up its own methods with
    ``getattr``, which would be a way to run code: :func:`_history_statistic` stands in for it.
    """
    import torch

    add_safe_globals = getattr(torch.serialization, 'add_safe_globals', None)
    if add_safe_globals is None:  # torch < 2.4
        return False
    import numpy as np
    from mmengine.logging import HistoryBuffer

    array = np.zeros(1)
    reconstruct, scalar = array.__reduce__()[0], array[0].__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in '?bhilqfdBHILQe'}  # one class a dtype, NumPy >= 1.25
    add_safe_globals([HistoryBuffer, np.ndarray, np.dtype, bytes, *dtypes])
    for package in ('numpy.core', 'numpy._core'):  # NumPy 1 and 2
        add_safe_globals(
            [
                (reconstruct, f'{package}.multiarray._reconstruct'),
                (scalar, f'{package}.multiarray.scalar'),
            ]
        )
    add_safe_globals([(_history_statistic, 'builtins.getattr')])
    logger.info("compat: MMEngine's log history may be read from checkpoints (weights_only=True)")
    return True


def _history_statistic(owner: Any, name: str) -> Callable:
    """``getattr`` for unpickling, limited to the four statistics of ``HistoryBuffer``."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(
            f'a checkpoint asked for {name!r} of {owner!r}: refused, it may carry code'
        )
    return getattr(HistoryBuffer, name)


def _safe_loading() -> bool:
    """MMEngine loads checkpoints in ways that run code that is in them.

    It leaves ``weights_only`` to torch, whose default was False before 2.6, fetches addresses with
    False in any version, and runs the text ``meta['config']``, which its early versions wrote, as
    a Python file at a resume. Here files and addresses are loaded with ``weights_only=True`` and
    without that text; the loaders of pavi and s3 addresses are left as they are.
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
    # with the patches in place
    import runpy

    from dblrgan_mm import compat

    if len(sys.argv) < 2:
        sys.exit('usage: python -m dblrgan_mm.compat SCRIPT [ARGUMENTS]')
    compat.apply()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name='__main__')
