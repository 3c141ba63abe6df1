"""Find a device and its fastest dtype, recognise out-of-memory errors, keep freed memory."""

import ctypes
import functools
import time
from typing import Any

import torch

from dblrgan_mm.errors import UserError


def find_device(name: str | torch.device) -> torch.device:
    """Return the device with a given name; 'auto' is a GPU if there is one, else the CPU.

    Raises:
        UserError: the device is unknown or not available.
    """
    name = str(name)
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f'{name!r} is not a device; use auto, cpu, cuda or cuda:1') from error
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            seen = f'GPUs 0 to {count - 1}' if count > 1 else f'{count or "no"} GPU'
            raise UserError(f'there is no device {name}: torch sees {seen}; use another, or cpu')
    elif device.type == 'mps':
        if not torch.backends.mps.is_available():
            raise UserError('there is no device mps on this machine; use cpu')
    elif device.type != 'cpu':
        raise UserError(f'{name!r} is not a supported device; use auto, cpu, cuda or cuda:1')
    return device


def half_dtype(device: torch.device) -> torch.dtype | None:
    """Return the 16-bit type that the device has instructions for: bfloat16 if it has both."""
    if device.type == 'cuda':
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else None
    if device.type == 'cpu':
        able = capabilities()
        return torch.bfloat16 if able.get('avx512_bf16') or able.get('amx_bf16') else None
    return None


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the device's 16-bit type if convolutions are faster in it, else float32."""
    half = half_dtype(device)
    if half is None:
        return torch.float32
    if device.type == 'cpu' and _seconds(half) >= 0.7 * _seconds(torch.float32):
        return torch.float32
    return half


def capabilities() -> dict[str, Any]:
    """Return the CPU's capabilities as reported by torch 2.10 or later; {} for older versions."""
    return getattr(torch.cpu, 'get_capabilities', dict)()


@functools.cache
def _seconds(dtype: torch.dtype) -> float:
    """Time a small convolution on the CPU.

    Some CPUs have instructions for bfloat16 but are not faster with it.
    """
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
    """Return whether an error of torch, onnxruntime or Python means that memory ran out."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "can't allocate memory" in text or 'Failed to allocate memory' in text


@functools.cache
def keep_freed_memory() -> None:
    """Make glibc keep up to 256 MB of freed memory, in one arena for all threads of the process.

    By default it returns this memory to the operating system after each strip, and the next strip
    has to wait for it. The setting is for the whole process, so a program decides on it, not
    ``Deblurrer``: ``dblrgan-mm deblur`` calls this function on a CPU. Does nothing without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8
        mallopt(trim_threshold, 1 << 28)
        mallopt(mmap_threshold, 1 << 25)
        mallopt(arena_max, 1)
