"""Communication between the processes of a run."""

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from torch import nn

from dblrgan_mm.models.dblrgan import unwrap


def any_process(flag: bool) -> bool:
    """Return whether the flag is set on any process; all processes must call this."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    all_reduce(flags, 'max')
    return bool(flags)


def float_buffers(model: nn.Module, prefix: str = '') -> dict[str, torch.Tensor]:
    """Return a model's floating-point buffers, named as without wrappers."""
    model = unwrap(model)
    found = {
        prefix + name: buffer
        for name, buffer in model.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
    for name, child in model.named_children():
        found |= float_buffers(child, f'{prefix}{name}.')
    return found


def gather_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the floating-point buffers of all processes on the CPU, (processes, *shape).

    They keep their types. The result is empty if there is only one process.
    """
    buffers = float_buffers(model)
    if get_world_size() == 1 or not buffers:
        return {}
    # one exchange for all, in the widest of their types
    flat = torch.cat([buffer.detach().flatten() for buffer in buffers.values()])
    rows = torch.stack([row.cpu() for row in all_gather(flat)])
    parts = rows.split([buffer.numel() for buffer in buffers.values()], dim=1)
    return {
        name: part.reshape(-1, *buffer.shape).to(buffer.dtype, copy=True)
        for (name, buffer), part in zip(buffers.items(), parts, strict=True)
    }
