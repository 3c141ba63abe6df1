"""What work takes: seconds, memory, multiply-accumulates; and what the machine could do at most."""

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

_SIDE = {'cpu': 2048, 'cuda': 8192}  # of the matrices
_COPIED = {'cpu': 1 << 28, 'cuda': 1 << 31}  # bytes


def machine() -> str:
    """The machine and the versions that matter, in words."""
    import platform

    import cv2

    gpu = f'{torch.cuda.get_device_name()}, ' if torch.cuda.is_available() else ''
    return (
        f'{gpu}{os.cpu_count()}-core {platform.machine()} '
        f'({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}, '
        f'OpenCV {cv2.__version__}, Python {platform.python_version()}'
    )


def wait_for(device: torch.device) -> None:
    """Until all that was asked of a GPU is done."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    elif device.type == 'mps':
        torch.mps.synchronize()


def now(device: torch.device) -> float:
    """The time in seconds, once all that was asked of a GPU is done."""
    wait_for(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What a piece of work takes, by the wall clock."""
    begin = now(device)
    work()
    return now(device) - begin


def seconds_by_operation(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """What each of torch's operations takes in a piece of work, without those that it calls; on a
    GPU what its kernels take. The longest come first."""
    os.environ.setdefault('KINETO_LOG_LEVEL', '9')  # messages: that it starts, that no GPU is there
    on_gpu = device.type == 'cuda'
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=kinds) as profiler:
        work()
        wait_for(device)
    found = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU  # not the kernels, which count for operations
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def matrix_product_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Operations a second of a large square matrix product; the median."""
    # float32 by the rules that convolutions follow
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    side = _SIDE.get(device.type, 2048)
    a, b = (torch.empty(side, side, device=device).uniform_(-8, 8).to(dtype) for _ in range(2))
    # torch has no public product of integers
    product = torch._int_mm if dtype == torch.int8 else torch.mm
    out = product(a, b)
    times = [seconds(lambda: product(a, b, out=out), device) for _ in range(repeats)]
    return 2 * side**3 / statistics.median(times)


def copy_ceiling(device: torch.device, repeats: int = 5) -> float:
    """Bytes a second of a large copy within a device's memory, read and written; the median."""
    source = torch.ones(_COPIED.get(device.type, 1 << 28), dtype=torch.uint8, device=device)
    target = source.clone()
    times = [seconds(lambda: target.copy_(source), device) for _ in range(repeats)]
    return 2 * source.numel() / statistics.median(times)


def flop_counter() -> Any:
    """torch's ``FlopCounterMode``, which knows deformable convolutions."""
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
    """The memory taken at most since this was made: a GPU's by torch, or the process's."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == 'cuda'
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            try:
                ctypes.CDLL(None).malloc_trim(0)  # what was freed before is given back
                Path('/proc/self/clear_refs').write_text('5')  # the peak counts from now on
                self.before = _resident('VmRSS')
            except (AttributeError, OSError):  # glibc on Linux alone tells
                self.before = None

    def bytes(self) -> int | None:
        """Bytes; None where this system does not tell."""
        if self.on_gpu:
            return torch.cuda.max_memory_allocated()
        return None if self.before is None else _resident('VmHWM') - self.before


def _resident(key: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f'{key}:'))
