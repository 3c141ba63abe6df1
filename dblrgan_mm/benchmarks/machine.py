"""The machine: what it is, what it can do at most, and its clock."""

import os
import statistics
import time
from collections.abc import Callable

import torch

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


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What a piece of work takes, by the wall clock."""
    wait_for(device)
    begin = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - begin


def matrix_product_ceiling(device: torch.device, dtype: torch.dtype, repeats: int = 5) -> float:
    """Floating-point operations a second of a large square matrix product; the median."""
    # float32 by the rules that convolutions follow
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    side = _SIDE.get(device.type, 2048)
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    times = [seconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repeats)]
    return 2 * side**3 / statistics.median(times)


def copy_ceiling(device: torch.device, repeats: int = 5) -> float:
    """Bytes a second of a large copy within a device's memory, read and written; the median."""
    source = torch.ones(_COPIED.get(device.type, 1 << 28), dtype=torch.uint8, device=device)
    target = source.clone()
    times = [seconds(lambda: target.copy_(source), device) for _ in range(repeats)]
    return 2 * source.numel() / statistics.median(times)
