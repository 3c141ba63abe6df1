"""Damaged files give an error message or still work; they never hang or raise other errors.

Each run tries a few examples; ``make fuzz`` tries many more.
"""

import faulthandler
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checkpoint import acting
from test_restore_clip import copier, decoded

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.checkpoint import load_generator
from dblrgan_mm.inference.restore_clip import restore_clip

HANGS = 60  # seconds after which the run is killed, with a traceback

VIDEOS = {
    'mp4': dict(codec='libx264', sound='aac', subtitles='mov_text', options={'g': '6'}),
    'mkv': dict(codec='libx265', pixels='yuv420p10le', sound='libopus', subtitles='subrip'),
    'avi': dict(codec='mpeg4', sound='libmp3lame', options={'b': '500000'}),
    'ts': dict(codec='libx264', sound='aac', options={'g': '6'}),
    'webm': dict(codec='libvpx-vp9', sound='libopus', options={'deadline': 'realtime'}),
    'mov': dict(codec='mjpeg', pixels='yuvj422p', sound='pcm_s16le', options={}),
    'nut': dict(codec='ffv1', pixels='bgr0', options={'level': '3'}),
}
CHECKPOINTS = ('bare', 'published', 'legacy')

# relative position, number of bytes removed, and bytes inserted
damage = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 64), st.binary(max_size=64)),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, cuts) -> bytes:
    for position, removed, junk in cuts:
        i = int(position * len(content))
        content = content[:i] + junk + content[i + removed :]
    return content


@pytest.fixture(scope='module')
def whole_files(tmp_path_factory, write_video, walk, call_tool) -> Path:
    """A folder with one undamaged file of each kind."""
    folder = tmp_path_factory.mktemp('whole')
    frames = [np.ascontiguousarray(frame[:48, :64]) for frame in walk]
    for suffix, arguments in VIDEOS.items():
        write_video(folder / f'in.{suffix}', frames, **arguments)
    weights = acting(True, mid_channels=4, num_blocks=1).state_dict()
    torch.save(weights, folder / 'bare')
    torch.save(weights, folder / 'legacy', _use_new_zipfile_serialization=False)
    words = ('--trained-on', 'x', '--metric', 'y')
    assert call_tool('publish_model', folder / 'bare', folder / 'x.pth', *words).code == 0
    next(folder.glob('x-*.pth')).rename(folder / 'published')
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder for the damaged file; if the run is killed, that file remains in it."""
    faulthandler.dump_traceback_later(HANGS, exit=True)
    yield tmp_path
    faulthandler.cancel_dump_traceback_later()


EXAMPLES = settings(
    max_examples=settings.default.max_examples // 5,  # per kind
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize('suffix', VIDEOS)
@EXAMPLES
@given(cuts=damage, length=st.floats(0.01, 1) | st.just(1.0))
def test_video(folder, whole_files, suffix, cuts, length):
    faulthandler.dump_traceback_later(HANGS, exit=True)
    source, target = folder / f'in.{suffix}', folder / 'out.mkv'
    content = damaged((whole_files / f'in.{suffix}').read_bytes(), cuts)
    source.write_bytes(content[: max(1, int(length * len(content)))])
    try:
        count, faults = restore_clip(source, target, copier(), overwrite=True)
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017  both outcomes are correct
        assert not target.exists()
    else:
        assert count == len(decoded(target)[0])
        assert all(str(source) in fault for fault in faults)
    target.unlink(missing_ok=True)
    shutil.rmtree(folder / 'out.mkv.part', ignore_errors=True)


@pytest.mark.parametrize('kind', CHECKPOINTS)
@EXAMPLES
@given(cuts=damage, length=st.floats(0.01, 1) | st.just(1.0))
def test_checkpoint(folder, whole_files, kind, cuts, length):
    faulthandler.dump_traceback_later(HANGS, exit=True)
    path = folder / 'net.pth'
    content = damaged((whole_files / kind).read_bytes(), cuts)
    path.write_bytes(content[: max(1, int(length * len(content)))])
    try:
        generator = load_generator(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017  both outcomes are correct
    else:
        assert all(weight.isfinite().all() for weight in generator.state_dict.values())
