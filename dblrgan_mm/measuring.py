"""Measure time, memory and operations of a piece of work, and the limits of the machine."""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_SIDE = {'cpu': 2048, 'cuda': 8192}  # rows and columns of the matrices
_COPIED = {'cpu': 1 << 28, 'cuda': 1 << 31}  # bytes


def machine() -> str:
    """Describe the machine and the versions that affect speed."""
    import platform

    import cv2

    gpu = f'{torch.cuda.get_device_name()}, ' if torch.cuda.is_available() else ''
    return (
        f'{gpu}{os.cpu_count()}-core {platform.machine()} '
        f'({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}, '
        f'OpenCV {cv2.__version__}, Python {platform.python_version()}'
    )


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all pending work."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished all pending work."""
    wait_for(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the wall-clock time of a piece of work."""
    begin = now(device)
    work()
    return now(device) - begin


def seconds_by_operation(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Return the seconds that each torch operation takes in a piece of work, the longest first.

    Operations called by an operation are not included in it. On a GPU, the time of its kernels
    counts.
    """
    os.environ.setdefault('KINETO_LOG_LEVEL', '9')  # no messages about its start or a missing GPU
    on_gpu = device.type == 'cuda'
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=kinds) as profiler:
        work()
        wait_for(device)
    found = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # kernels are counted with their operations
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def matrix_product_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Return the operations per second of a large square matrix product (median)."""
    # use TF32 for float32 exactly if convolutions do
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    side = _SIDE.get(device.type, 2048)
    a, b = (torch.empty(side, side, device=device).uniform_(-8, 8).to(dtype) for _ in range(2))
    # torch has no public integer matrix product
    product = torch._int_mm if dtype == torch.int8 else torch.mm
    out = product(a, b)
    times = [seconds(lambda: product(a, b, out=out), device) for _ in range(repeats)]
    return 2 * side**3 / statistics.median(times)


def copy_ceiling(device: torch.device, repeats: int = 5) -> float:
    """Return the bytes per second, read and written, of a large copy in device memory (median)."""
    source = torch.ones(_COPIED.get(device.type, 1 << 28), dtype=torch.uint8, device=device)
    target = source.clone()
    times = [seconds(lambda: target.copy_(source), device) for _ in range(repeats)]
    return 2 * source.numel() / statistics.median(times)


def flop_counter() -> Any:
    """Return torch's ``FlopCounterMode`` with support for deformable convolutions."""
    import torchvision  # noqa: F401  (registers the operator)
    from torch.utils.flop_counter import FlopCounterMode

    def deform_conv2d(x, weight, *args, out_shape=None, **kwargs) -> int:
        return 2 * out_shape[0] * out_shape[2] * out_shape[3] * int(np.prod(weight))

    def backward(grad, x, weight, *args, out_shape=None, **kwargs) -> int:
        return 2 * 2 * grad[0] * grad[2] * grad[3] * int(np.prod(weight))

    mapping = {
        torch.ops.torchvision.deform_conv2d: deform_conv2d,
        torch.ops.torchvision._deform_conv2d_backward: backward,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


class PeakMemory:
    """Peak memory since this object was created: torch's GPU memory, or that of the process."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == 'cuda'
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system
                Path('/proc/self/clear_refs').write_text('5')  # reset the peak
                self.before: int | None = _resident('VmRSS')
            except (AttributeError, OSError):  # works only with glibc on Linux
                self.before = None

    def bytes(self) -> int | None:
        """Return the bytes, or None if this system does not provide them."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return None if self.before is None else _resident('VmHWM') - self.before


def _resident(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f'{key}:'))
