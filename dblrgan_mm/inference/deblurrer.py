"""Frames in, restored frames out."""

import ctypes
import functools
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.architectures import build_network
from dblrgan_mm.inference.checkpoint import Generator, load_generator, sha256
from dblrgan_mm.inference.int8 import capabilities
from dblrgan_mm.inference.strip_network import StripNetwork

logger = logging.getLogger('dblrgan_mm')

Frame = TypeVar('Frame', np.ndarray, torch.Tensor)

_DTYPES = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int8)
}
DEFAULT = 'dblrnet_plus'  # of the weights that come with the package
_CACHE = 20e6  # bytes of a strip's widest maps that a processor still works on fast
_BATCH = 1 << 20  # pixels that keep a GPU busy


class Network(Protocol):
    """What a :class:`Deblurrer` needs of a network."""

    num_frames: int

    def __call__(self, windows: torch.Tensor, tile: int | None) -> torch.Tensor:
        """Windows (n, t, 3, h, w), RGB, uint8 or uint16, to frames (n, 3, h, w) in [0, 1]."""


class Deblurrer:
    """Restores clips of any length and size, frame by frame.

    Holds no more frames than a window and, on a GPU, a batch of windows; beyond a clip's ends
    frames are reflected, as in a test by ``VideoClipDataset``, so that both give the same.

    Args:
        network: what restores windows, e.g. a ``StripNetwork``.
        device: where it runs.
        tile: rows that are computed at once (for an ONNX file: rows and columns). The result
            does not depend on it. None: on a CPU what suits its cache, on a GPU what fits into its
            free memory. If memory runs out, the half of it is tried.
        compile: compile the network with ``torch.compile``, and keep that if it is faster; the
            log says how many frames it takes to pay back the time.

    Attributes:
        meta: what the checkpoint says of itself.
        identity: SHA-256 of the checkpoint and the dtype, '' for a network that came otherwise.

    Example:
        >>> deblurrer = Deblurrer.from_checkpoint()
        >>> clip = [np.zeros((36, 64, 3), np.uint8)] * 7
        >>> [restored.shape for restored in deblurrer(clip)] == [(36, 64, 3)] * 7
        True
    """

    def __init__(
        self,
        network: Network,
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
            raise UserError('int8 runs on a CPU, uncompiled; give device cpu, without compile')
        if self.device.type == 'cpu':
            _keep_freed_memory()

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
            path: a file by ``tools/publish_model.py``, a training's checkpoint, a state dict of
                ``DBLRNet`` or ``MultiScaleDBLRNet``, or an ONNX file by
                ``tools/export_onnx.py``; or the name of weights that come with the package,
                'dblrnet_plus' (None) or 'dblrgan_plus'.
            device: 'cpu', 'cuda', 'cuda:1' and so on; 'auto' takes a GPU if there is one.
            dtype: 'float32', 'bfloat16' or 'float16'; 'auto' takes the fastest of these that the
                device has: on a GPU by its generation, on a CPU bfloat16 if a short measurement
                favours it. 'int8', for CPUs with VNNI, is faster still, and rounds more.
            tile: see :class:`Deblurrer`.
            compile: see :class:`Deblurrer`.

        Raises:
            UserError: for a file that is no such checkpoint, an unknown device or dtype, a device
                that is not there or has not that dtype, or a network that loses too much in int8.
        """
        place = find_device(device)
        dtype = str(dtype).removeprefix('torch.')
        if dtype not in ('auto', *_DTYPES):
            raise UserError(f'dtype must be auto, {", ".join(_DTYPES)}; got {dtype!r}')
        if path is not None and Path(path).suffix.lower() == '.onnx':
            if dtype not in ('auto', 'float32') or compile:
                raise UserError(
                    f'{path}: an ONNX file runs in float32, uncompiled; leave those out'
                )
            from dblrgan_mm.inference.onnx_network import OnnxDBLRNet

            network = OnnxDBLRNet(path, None if str(device) == 'auto' else place)
            deblurrer = cls(network, 'cpu', tile)  # onnxruntime brings frames to the GPU itself
            deblurrer.meta = network.meta
            deblurrer.identity = sha256(Path(path))
            return deblurrer
        path = released().get(str(path or DEFAULT)) or Path(path or DEFAULT)
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
        """Use a generator that is loaded already; arguments as above."""
        network = build_network(generator.state_dict, generator.architecture, dtype)
        deblurrer = cls(network, device, tile, compile)
        network.to(device)
        deblurrer.meta = generator.meta
        return deblurrer

    def __call__(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Restore a clip.

        Args:
            frames: RGB, all of one size and kind: arrays (h, w, 3) or tensors (3, h, w), uint8 or
                uint16 over their full range. Read as they are needed.

        Yields:
            As many restored frames, in order, of the same kind; tensors on the device they came
            from.

        Raises:
            ValueError: a frame is of another shape or type than these, or than the first one.
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

    @staticmethod
    def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
        first = None
        for i, frame in enumerate(frames):
            kind = (type(frame), getattr(frame, 'shape', None), getattr(frame, 'dtype', None))
            if first is None:
                channels = {np.ndarray: -1, torch.Tensor: 0}.get(kind[0])
                fits = channels is not None and frame.ndim == 3 and frame.shape[channels] == 3
                if not fits or str(frame.dtype).split('.')[-1] not in ('uint8', 'uint16'):
                    raise ValueError(
                        'a Deblurrer takes RGB frames of uint8 or uint16, arrays (h, w, 3) or '
                        f'tensors (3, h, w), got {kind[0].__name__} {tuple(kind[1] or ())} of '
                        f'{kind[2]}'
                    )
                first = kind
            elif kind != first:
                raise ValueError(
                    f'frame {i} is {tuple(kind[1] or ())} of {kind[2]}, those before '
                    f'{tuple(first[1])} of {first[2]}; all frames of a clip are alike'
                )
            yield frame

    def _to_device(self, frame: Frame) -> torch.Tensor:
        if isinstance(frame, np.ndarray):
            frame = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        # a copy: the caller may fill the same memory with the next frame
        return frame.to(self.device, copy=True)

    def _batch_size(self, frame: Frame) -> int:
        """Windows that are restored at once: a GPU wants work, a CPU has enough of one."""
        pixels = frame.size / 3 if isinstance(frame, np.ndarray) else frame.numel() / 3
        return max(1, min(16, int(_BATCH / pixels))) if self.device.type == 'cuda' else 1

    def _restore(
        self, batch: list[torch.Tensor], like: Frame, rows: int | None
    ) -> tuple[list[Frame], int]:
        """Restored frames, and how many rows at once did it."""
        with torch.inference_mode():
            windows = torch.stack(batch) if len(batch) > 1 else batch[0][None]
            restored, rows = self._compute(windows, rows)
            if not restored.isfinite().all():
                raise UserError(
                    'the network gives values that are no finite numbers: its weights are damaged, '
                    'or too large for its dtype; give another checkpoint, or dtype float32'
                )
            return self._as_they_came(restored, like), rows

    @staticmethod
    def _as_they_came(restored: torch.Tensor, like: Frame) -> list[Frame]:
        """Frames (n, 3, h, w) in [0, 1], which are written to, as frames like another one."""
        is_array = isinstance(like, np.ndarray)
        kind = getattr(torch, like.dtype.name) if is_array else like.dtype
        top = torch.iinfo(kind).max
        restored = restored.mul_(top).round_().clamp_(0, top)
        if kind == torch.uint8:  # a quarter of the bytes leaves the device
            restored = restored.to(kind)
        if is_array:
            restored = restored.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            return list(restored.astype(like.dtype, copy=False))
        return list(restored.to(like.device, like.dtype))

    def _compute(self, windows: torch.Tensor, rows: int | None) -> tuple[torch.Tensor, int]:
        rows = self._choose_tile(windows) if rows is None else rows
        if self._compile:
            self._compile = False
            self._compile_if_faster(windows, rows)
        while True:
            try:
                return self.network(windows, rows), rows
            except (RuntimeError, MemoryError) as error:
                failed = min(rows, windows.shape[-2])
                if not is_out_of_memory(error) or failed == 1:
                    raise
            # outside of the handler, which keeps the failed attempt's tensors alive
            rows = failed // 2
            if self.device.type == 'cuda':
                torch.cuda.empty_cache()
            logger.warning('out of memory with %d rows at once: going on with %d', failed, rows)

    def _choose_tile(self, windows: torch.Tensor) -> int:
        height, width = windows.shape[-2:]
        network = self.network
        if not isinstance(network, StripNetwork):
            return network.default_tile
        row = len(windows) * width * network.bytes_a_pixel
        if self.device.type == 'cuda':
            free = torch.cuda.mem_get_info(self.device)[0]
            # input and output of the widest layer, the library's workspace, and as much again
            return int(min(height, max(1, free / (4 * row))))
        step = network.row_step
        return min(height, max(step, int(_CACHE / row) // step * step))

    def _compile_if_faster(self, windows: torch.Tensor, rows: int) -> None:
        """Measure the network as it is and compiled, and keep the faster."""
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
        except Exception as error:  # no compiler, or one that torch does not get along with
            delattr(network, part)
            logger.warning('cannot be compiled, goes on as it is: %s', str(error).split('\n')[0])
            return
        spent = time.perf_counter() - begin
        compiled = seconds()
        gain = (plain - compiled) / len(windows)
        if gain > 0:
            logger.info(
                'compiled in %.0f s, %.2fx as fast: pays back after %d frames',
                spent, plain / compiled, -(-spent // gain),
            )  # fmt: skip
        else:
            delattr(network, part)
            logger.warning(
                'compiling took %.0f s and does not pay: %.2fx the speed; not compiled',
                spent, plain / compiled,
            )  # fmt: skip


def _reflected(frames: Iterable[torch.Tensor], reach: int) -> Iterator[torch.Tensor]:
    """Frames continued by reflection at both ends, as far as there are frames to reflect.

    Of 0 1 2 3 with a reach of 2 this is 2 1 0 1 2 3 2 1.
    """
    frames = iter(frames)
    first = list(itertools.islice(frames, 2 * reach + 1))
    if len(first) <= reach:  # shorter than a reflection: walk to and fro
        length = len(first)
        for i in range(-reach, length + reach if length else -reach):
            period = max(1, 2 * (length - 1))
            i = i % period
            yield first[min(i, period - i)] if length > 1 else first[0]
        return
    yield from reversed(first[1 : reach + 1])
    last = deque(maxlen=reach + 1)
    for frame in itertools.chain(first, frames):
        last.append(frame)
        yield frame
    yield from list(last)[-2::-1]


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        UserError: it is not there, or unknown.
    """
    name = str(name)
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'{name!r} is no device; give auto, cpu, cuda or cuda:1') from error
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            seen = f'GPUs 0 to {count - 1}' if count > 1 else f'{count or "no"} GPU'
            raise UserError(f'there is no device {name}: torch sees {seen}; give another, or cpu')
    elif device.type == 'mps':
        if not torch.backends.mps.is_available():
            raise UserError('there is no device mps on this machine; give cpu')
    elif device.type != 'cpu':
        raise UserError(f'{name!r} is no device that is known here; give auto, cpu, cuda or cuda:1')
    return device


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 or float16 where the device computes faster in it, else float32."""
    if device.type == 'cuda':
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16
        return (
            torch.float16 if torch.cuda.get_device_capability(device) >= (7, 0) else torch.float32
        )
    if device.type == 'cpu':
        able = capabilities()
        capable = able.get('avx512_bf16') or able.get('amx_bf16')
        if capable and _seconds(torch.bfloat16) < 0.7 * _seconds(torch.float32):
            return torch.bfloat16
    return torch.float32


@functools.cache
def _keep_freed_memory() -> None:
    """Have glibc, in the whole process, keep up to 256 MB that were freed, in one place for all
    threads. It would give them back after each strip, and the next one wait for them."""
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)
        mallopt(arena_max, 1)


@functools.cache
def _seconds(dtype: torch.dtype) -> float:
    """Of a small convolution on the CPU. Some have instructions for bfloat16 and gain nothing."""
    weight = torch.full((64, 64, 3, 3), 0.5).to(dtype, memory_format=torch.channels_last)
    maps = torch.full((1, 64, 18, 320), 0.5).to(dtype, memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for _ in range(6):
            begin = time.perf_counter()
            torch.nn.functional.conv2d(maps, weight)
            times.append(time.perf_counter() - begin)
    return min(times)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, onnxruntime or Python says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or 'Failed to allocate memory' in text


def released() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    files = sorted((Path(__file__).parent / 'weights').glob('*-????????.pth'))
    return {file.stem[:-9]: file for file in files}
