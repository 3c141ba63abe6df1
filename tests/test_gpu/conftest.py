"""Shared fixtures of the GPU tests, which need neither PyAV, hypothesis nor tests/conftest.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dblrgan_mm import compat
from dblrgan_mm.clips import clip_store, layouts

compat.apply()

SAMPLE = Path(__file__).parents[1] / 'data' / 'gopro'


@pytest.fixture(autouse=True)
def _skip_without_a_gpu(request):
    if request.node.get_closest_marker('cuda') and not torch.cuda.is_available():
        pytest.skip('needs a GPU')


@pytest.fixture(autouse=True)
def _reproducible():
    init_default_scope('mmagic')
    torch.manual_seed(0)


@pytest.fixture
def no_tf32() -> Iterator[None]:
    """Compute in exact float32, without TF32."""
    parts = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    yield
    for part, value in zip(parts, before, strict=True):
        part.allow_tf32 = value


@pytest.fixture
def fake_cuda(monkeypatch) -> Iterator[torch.device]:
    """Create tensors without content that claim to be on a GPU, even if there is none.

    Mixing them with CPU tensors in an operation fails as on a real GPU.
    """
    to = nn.Module.to

    def without_layout(module, *args, memory_format=None, **kwargs):
        return to(module, *args, **kwargs) if args or kwargs else module

    monkeypatch.setattr(nn.Module, 'to', without_layout)
    device = torch.device('cuda')
    with FakeTensorMode(), device:
        yield device


@pytest.fixture(scope='session')
def store(tmp_path_factory) -> Path:
    """A clip store of the bundled clips."""
    root = tmp_path_factory.mktemp('gpu') / 'store'
    index = clip_store.new_index('gopro', {})
    for split in ('train', 'test'):
        entries = {}
        for clip in layouts.load_clips('gopro', SAMPLE, split):
            file = f'{split}/{clip.name}.npy'
            entries[clip.name] = dict(file=file, **clip_store.write_clip(clip, root / file))
        index['splits'][split] = dict(complete=True, clips=entries)
    clip_store.write_index(root, index)
    return root
