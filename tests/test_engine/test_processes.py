import torch
from torch import nn

from dblrgan_mm.engine import processes


def test_buffers_of_two_processes_keep_dtype_and_value(monkeypatch):
    model = nn.Module()
    buffers = dict(
        wide=torch.tensor([1 + 2**-40], dtype=torch.float64),
        usual=torch.tensor([[1 / 3, 2.0]]),
        narrow=torch.tensor(0.1, dtype=torch.bfloat16),
    )
    for name, value in buffers.items():
        model.register_buffer(name, value)
    monkeypatch.setattr(processes, 'get_world_size', lambda: 2)
    monkeypatch.setattr(processes, 'all_gather', lambda flat: [flat, 2 * flat])
    gathered = processes.gather_buffers(model)
    assert gathered.keys() == buffers.keys()
    for name, value in buffers.items():
        torch.testing.assert_close(
            gathered[name], torch.stack([value, 2 * value]), rtol=0, atol=0, msg=name
        )
