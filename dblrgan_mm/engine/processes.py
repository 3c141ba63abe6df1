"""What the processes of a run tell each other."""

import torch
from mmengine.dist import all_gather, all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from torch import nn


def any_process(flag: bool) -> bool:
    """Whether the flag is set on any process; all of them call this, and get the same answer."""
    if get_world_size() == 1:
        return flag
    flags = torch.tensor(int(flag))
    all_reduce(flags, 'max')
    return bool(flags)


def float_buffers(model: nn.Module, prefix: str = '') -> dict[str, torch.Tensor]:
    """A model's floating-point buffers, under the names that they have without wrappers."""
    if is_model_wrapper(model):
        model = model.module
    found = {
        prefix + name: buffer
        for name, buffer in model.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
    for name, child in model.named_children():
        found |= float_buffers(child, f'{prefix}{name}.')
    return found


def gather_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The floating-point buffers of all processes on the CPU, (processes, *shape).

    Empty where there is one process.
    """
    buffers = float_buffers(model)
    if get_world_size() == 1 or not buffers:
        return {}
    flat = torch.cat([buffer.detach().flatten().float() for buffer in buffers.values()])
    rows = torch.stack([row.cpu() for row in all_gather(flat)])
    parts = rows.split([buffer.numel() for buffer in buffers.values()], dim=1)
    return {
        name: part.reshape(-1, *buffer.shape).clone()
        for (name, buffer), part in zip(buffers.items(), parts, strict=True)
    }
