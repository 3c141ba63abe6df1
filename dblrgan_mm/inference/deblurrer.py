"""Restore the frames of a clip with a trained generator."""

import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from dblrgan_mm.clips.clip import pad_index
from dblrgan_mm.devices import fastest_dtype, find_device, is_out_of_memory
from dblrgan_mm.errors import UserError
from dblrgan_mm.files import sha256
from dblrgan_mm.inference.architectures import build_network
from dblrgan_mm.inference.checkpoint import Generator, load_generator
from dblrgan_mm.inference.networks.strip_network import StripNetwork

logger = logging.getLogger('dblrgan_mm')

Frame = TypeVar('Frame', np.ndarray, torch.Tensor)

_DTYPES = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int8)
}
DEFAULT = 'dblrnet_ms'  # name of the packaged weights used by default
_CACHE = 20e6  # bytes: a CPU is fast while the largest layer input of a strip is below this
_BATCH = 1 << 20  # pixels per batch that keep a GPU busy


class Network(Protocol):
    """Interface of the networks that :class:`Deblurrer` accepts, besides ``StripNetwork``.

    Attributes:
        num_frames: frames of a window.
        default_tile: tile used if ``Deblurrer`` is given none. None: always whole frames.
    """

    num_frames: int
    default_tile: int | None

    def __call__(self, windows: torch.Tensor, tile: int | None) -> torch.Tensor:
        """Map windows (n, t, 3, h, w), RGB, uint8 or uint16, to frames (n, 3, h, w) in [0, 1]."""


class Deblurrer:
    """Restores clips of any length and size, frame by frame.

    Keeps only one window of frames in memory and, on a GPU, one batch of windows. Frames beyond
    the ends of a clip are reflected, as ``VideoClipDataset`` does in tests, so that both give the
    same result.

    Args:
        network: network that restores windows, e.g. a ``StripNetwork``.
        device: device it runs on.
        tile: rows computed at once (for an ONNX file: rows and columns); affects memory and speed,
            not the result. None: chosen to suit the cache of a CPU, or to fit into the free memory
            of a GPU. Halved and tried again when memory runs out.
        compile: compile the network with ``torch.compile``, and keep the compiled network if it is
            faster. The log says after how many frames the compilation pays off.

    Attributes:
        meta: description stored in the checkpoint.
        identity: SHA-256 of the checkpoint and the dtype; '' for a network that was not loaded
            from a file.

    Example:
        >>> deblurrer = Deblurrer.from_checkpoint()
        >>> clip = [np.zeros((36, 64, 3), np.uint8)] * 7
        >>> [restored.shape for restored in deblurrer(clip)] == [(36, 64, 3)] * 7
        True
    """

    def __init__(
        self,
        network: Network | StripNetwork,
        device: torch.device | str = 'cpu',
        tile: int | None = None,
        compile: bool = False,
    ) -> None:
        if tile is not None and tile < 1:
            raise UserError(f'tile must be at least 1 row, got {tile}')
        self.network = network
        self.device = torch.device(device)
        self.tile = tile
        self.meta: dict[str, Any] = {}
        self.identity = ''
        self._compile = compile
        if getattr(network, 'int8', False) and (compile or self.device.type != 'cpu'):
            raise UserError(
                'int8 runs only on a CPU and without compile; use device cpu and do not compile'
            )

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path | None = None,
        device: str | torch.device = 'auto',
        dtype: str | torch.dtype = 'auto',
        tile: int | None = None,
        compile: bool = False,
    ) -> 'Deblurrer':
        """Load a network.

        Args:
            path: a file written by ``dblrgan-mm publish``, a training checkpoint, a state dict
                of ``DBLRNet`` or ``MultiScaleDBLRNet``, or an ONNX file written by
                ``dblrgan-mm export``; or the name of weights that come with the package,
                'dblrnet_ms' (used for None), 'dblrnet_plus' or 'dblrgan_plus'.
            device: 'cpu', 'cuda', 'cuda:1' and so on; 'auto' uses a GPU if there is one.
            dtype: 'float32', 'bfloat16' or 'float16'; 'auto' uses the fastest of these on the
                device: depending on the generation of a GPU, or bfloat16 on a CPU where a short
                measurement shows that it is faster. 'int8', for CPUs with VNNI, is faster still
                but less precise.
            tile: see :class:`Deblurrer`.
            compile: see :class:`Deblurrer`.

        Raises:
            UserError: the file is not such a checkpoint, the device or dtype is unknown or not
                available, or the network loses too much accuracy in int8.
        """
        place = find_device(device)
        dtype = str(dtype).removeprefix('torch.')
        if dtype not in ('auto', *_DTYPES):
            raise UserError(f'dtype must be one of auto, {", ".join(_DTYPES)}; got {dtype!r}')
        if path is not None and Path(path).suffix.lower() == '.onnx':
            if dtype not in ('auto', 'float32') or compile:
                raise UserError(
                    f'{path}: an ONNX file runs only in float32 and without compile; omit the '
                    'dtype and compile options'
                )
            from dblrgan_mm.inference.networks.onnx_network import OnnxNetwork

            network = OnnxNetwork(path, None if str(device) == 'auto' else place)
            if tile is not None and network.default_tile is None:
                raise UserError(
                    f'{path}: this network aligns frames, so its ONNX file takes only whole '
                    'frames; omit the tile option, or use the checkpoint instead of the ONNX file'
                )
            deblurrer = cls(network, 'cpu', tile)  # onnxruntime itself copies frames to the GPU
            deblurrer.meta = network.meta
            deblurrer.identity = sha256(Path(path))
            return deblurrer
        path = find_weights(path or DEFAULT)
        kind = fastest_dtype(place) if dtype == 'auto' else _DTYPES[dtype]
        deblurrer = cls.from_generator(load_generator(path), place, kind, tile, compile)
        deblurrer.identity = f'{sha256(path)} {kind}'
        return deblurrer

    @classmethod
    def from_generator(
        cls,
        generator: Generator,
        device: torch.device | str = 'cpu',
        dtype: torch.dtype = torch.float32,
        tile: int | None = None,
        compile: bool = False,
    ) -> 'Deblurrer':
        """Use a generator that is already loaded; see :meth:`from_checkpoint` for the arguments."""
        network = build_network(generator.state_dict, generator.architecture, dtype)
        deblurrer = cls(network, device, tile, compile)
        network.to(device)
        deblurrer.meta = generator.meta
        return deblurrer

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Restore a clip.

        Args:
            frames: RGB frames, all of the same type, shape and dtype: arrays (h, w, 3) or tensors
                (3, h, w), uint8 or uint16 over their full range. Consumed lazily.

        Yields:
            One restored frame per input frame, in order, of the same type, shape and dtype;
            tensors are on the device of the input.

        Raises:
            ValueError: a frame has an unsupported type, shape or dtype, or differs from the first
                frame.
        """
        reach = self.network.num_frames // 2
        rows = self.tile
        ring: deque[torch.Tensor] = deque(maxlen=2 * reach + 1)
        batch: list[torch.Tensor] = []
        frames = self._checked(frames)
        like = next(frames, None)
        if like is None:
            return
        size = self._batch_size(like)
        on_device = map(self._to_device, itertools.chain([like], frames))
        for frame in _reflected(on_device, reach):
            ring.append(frame)
            if len(ring) == ring.maxlen:
                batch.append(torch.stack(list(ring)))
            if len(batch) == size:
                restored, rows = self._restore(batch, like, rows)
                yield from restored
                batch = []
        if batch:
            yield from self._restore(batch, like, rows)[0]

    def centre(self, window: Sequence[Frame]) -> Frame:
        """Restore the centre frame of a window.

        Args:
            window: ``network.num_frames`` frames, as for :meth:`__call__`.

        Raises:
            ValueError: as for :meth:`__call__`, or another number of frames.
        """
        if len(window) != self.network.num_frames:
            raise ValueError(
                f'the network takes windows of {self.network.num_frames} frames, got {len(window)}'
            )
        on_device = [self._to_device(frame) for frame in self._checked(window)]
        return self._restore([torch.stack(on_device)], window[0], self.tile)[0][0]

    @staticmethod
    def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
        first = None
        for i, frame in enumerate(frames):
            shape, dtype = getattr(frame, 'shape', None), getattr(frame, 'dtype', None)
            kind: tuple[type, Any, Any] = (type(frame), shape, dtype)
            if first is None:
                channels = {np.ndarray: -1, torch.Tensor: 0}.get(kind[0])
                fits = channels is not None and frame.ndim == 3 and frame.shape[channels] == 3
                if not fits or str(frame.dtype).split('.')[-1] not in ('uint8', 'uint16'):
                    raise ValueError(
                        'a Deblurrer takes RGB frames of uint8 or uint16, as arrays (h, w, 3) or '
                        f'tensors (3, h, w); got {kind[0].__name__} {tuple(kind[1] or ())} of '
                        f'{kind[2]}'
                    )
                first = kind
            elif kind != first:
                raise ValueError(
                    f'frame {i} is {tuple(kind[1] or ())} of {kind[2]}, but the first frame is '
                    f'{tuple(first[1])} of {first[2]}; all frames of a clip must have the same '
                    'type, shape and dtype'
                )
            yield frame

    def _to_device(self, frame: Frame) -> torch.Tensor:
        if isinstance(frame, np.ndarray):
            tensor = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        else:
            tensor = frame
        # copy: the caller may reuse the memory for the next frame
        return tensor.to(self.device, copy=True)

    def _batch_size(self, frame: Frame) -> int:
        """Return how many windows are restored at once: enough to keep a GPU busy, 1 on a CPU."""
        pixels = frame.size / 3 if isinstance(frame, np.ndarray) else frame.numel() / 3
        return max(1, min(16, int(_BATCH / pixels))) if self.device.type == 'cuda' else 1

    def _restore(
        self, batch: list[torch.Tensor], like: Frame, rows: int | None
    ) -> tuple[list[Frame], int | None]:
        """Restore a batch; return the frames, and the number of rows computed at once."""
        with torch.inference_mode():
            windows = torch.stack(batch) if len(batch) > 1 else batch[0][None]
            restored, rows = self._compute(windows, rows)
            if not restored.isfinite().all():
                raise UserError(
                    'the network outputs NaN or infinite values: its weights are damaged, or too '
                    'large for its dtype; use another checkpoint, or dtype float32'
                )
            return self._in_input_format(restored, like), rows

    @staticmethod
    def _in_input_format(restored: torch.Tensor, like: Frame) -> list[Frame]:
        """Convert frames (n, 3, h, w) in [0, 1], in place, to frames of the format of ``like``."""
        kind = getattr(torch, like.dtype.name) if isinstance(like, np.ndarray) else like.dtype
        top = torch.iinfo(kind).max
        restored = restored.mul_(top).round_().clamp_(0, top)
        if kind == torch.uint8:  # so that only a quarter of the bytes leaves the device
            restored = restored.to(kind)
        if isinstance(like, np.ndarray):
            arrays = restored.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return list(arrays.astype(like.dtype, copy=False))
        return list(restored.to(like.device, like.dtype))

    def _compute(self, windows: torch.Tensor, rows: int | None) -> tuple[torch.Tensor, int | None]:
        rows = self._choose_tile(windows) if rows is None else rows
        if self._compile and rows is not None:
            self._compile = False
            self._compile_if_faster(windows, rows)
        while True:
            try:
                return self.network(windows, rows), rows
            except (RuntimeError, MemoryError) as error:
                if rows is None or not is_out_of_memory(error):
                    raise
                failed = min(rows, windows.shape[-2])
                if failed == 1:
                    raise
            # outside the except block, where the exception keeps the failed attempt's tensors alive
            rows = failed // 2
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
            logger.warning('out of memory with %d rows at once; retrying with %d', failed, rows)

    def _choose_tile(self, windows: torch.Tensor) -> int | None:
        height, width = windows.shape[-2:]
        network = self.network
        if not isinstance(network, StripNetwork):
            return network.default_tile
        row = len(windows) * width * network.bytes_per_pixel
        if self.device.type == 'cuda':
            free = torch.cuda.mem_get_info(self.device)[0]
            # 4 parts: input and output of the largest layer, the library's workspace, a reserve
            return int(min(height, max(1, free / (4 * row))))
        step = network.row_step
        return min(height, max(step, int(_CACHE / row) // step * step))

    def _compile_if_faster(self, windows: torch.Tensor, rows: int) -> None:
        """Time the network with and without compilation, and keep the faster variant."""
        network = self.network
        if not isinstance(network, StripNetwork):
            return

        def seconds() -> float:
            times = []
            for _ in range(3):
                begin = time.perf_counter()
                network(windows, rows).sum().item()
                times.append(time.perf_counter() - begin)
            return min(times)

        plain = seconds()
        begin = time.perf_counter()
        part = 'step' if rows < windows.shape[-2] else 'whole'
        setattr(network, part, torch.compile(getattr(network, part), dynamic=False))
        try:
            network(windows, rows)
        except Exception as error:  # no compiler, or one that torch cannot use
            delattr(network, part)
            logger.warning('compilation failed, running uncompiled: %s', str(error).split('\n')[0])
            return
        spent = time.perf_counter() - begin
        compiled = seconds()
        gain = (plain - compiled) / len(windows)
        if gain > 0:
            logger.info(
                'compiled in %.0f s, %.2fx as fast; pays off after %d frames',
                spent, plain / compiled, -(-spent // gain),
            )  # fmt: skip
        else:
            delattr(network, part)
            logger.warning(
                'compiled in %.0f s, but only %.2fx as fast; running uncompiled',
                spent, plain / compiled,
            )  # fmt: skip


def _reflected(frames: Iterable[torch.Tensor], reach: int) -> Iterator[torch.Tensor]:
    """Extend a clip, which is not empty, at both ends by ``reach`` reflected frames.

    For example, 0 1 2 3 with a reach of 2 becomes 2 1 0 1 2 3 2 1.
    """
    frames = iter(frames)
    first = list(itertools.islice(frames, 2 * reach + 1))
    if len(first) <= reach:  # too short for one reflection: reflect repeatedly
        for i in range(-reach, len(first) + reach):
            yield first[pad_index(i, len(first), 'reflection')]
        return
    yield from reversed(first[1 : reach + 1])
    last: deque[torch.Tensor] = deque(maxlen=reach + 1)
    for frame in itertools.chain(first, frames):
        last.append(frame)
        yield frame
    yield from list(last)[-2::-1]


def released() -> dict[str, Path]:
    """Return the paths of the weights that come with the package, by name."""
    files = sorted((Path(__file__).parent / 'weights').glob('*-????????.pth'))
    return {file.stem[:-9]: file for file in files}


def find_weights(name: str | Path) -> Path:
    """Return the path of a checkpoint, given as a path or as a name in :func:`released`.

    Raises:
        UserError: a name without folder and suffix is neither that of a file nor of weights.
    """
    found, path = released(), Path(name)
    if str(name) in found:
        return found[str(name)]
    if path.name == str(name) and not path.suffix and not path.exists():
        raise UserError(
            f'no weights {name}: the package has {", ".join(found)}; or give the path of a '
            'checkpoint'
        )
    return path
