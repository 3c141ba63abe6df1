"""A Deblurrer on a GPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dblrgan_mm.clips.frames import read_frame
from dblrgan_mm.inference.deblurrer import Deblurrer

pytestmark = pytest.mark.cuda

CLIP = Path(__file__).parents[1] / 'data' / 'gopro' / 'test' / 'sam2_blocks_two_hands' / 'blur'


@pytest.fixture(scope='module')
def clip() -> list[np.ndarray]:
    """Ten blurry frames (144, 256, 3)."""
    return [read_frame(path) for path in sorted(CLIP.iterdir())]


@pytest.mark.parametrize(('dtype', 'limit'), [('float32', 1), ('bfloat16', 4), ('float16', 3)])
def test_equals_the_cpu(clip, dtype, limit):
    expected = list(Deblurrer.from_checkpoint(device='cpu', dtype='float32')(clip))
    restored = list(Deblurrer.from_checkpoint(device='cuda', dtype=dtype)(clip))
    assert restored[0].dtype == np.uint8
    for a, b in zip(restored, expected, strict=True):
        assert np.abs(np.int16(a) - b).max() <= limit


def test_strips_equal_the_whole(clip):
    whole, strips = (
        list(Deblurrer.from_checkpoint(device='cuda', dtype='float32', tile=tile)(clip[:6]))
        for tile in (None, 32)
    )
    for a, b in zip(whole, strips, strict=True):
        assert np.abs(np.int16(a) - b).max() <= 1


def test_output_tensors_stay_on_the_gpu(clip):
    frames = [torch.from_numpy(f).permute(2, 0, 1).cuda() for f in clip]
    restored = list(Deblurrer.from_checkpoint(device='cuda')(frames))
    assert all(f.is_cuda and f.dtype == torch.uint8 for f in restored)


def test_sixteen_bits(clip):
    frames = [np.uint16(frame) * 257 for frame in clip[:5]]
    restored = list(Deblurrer.from_checkpoint(device='cuda')(frames))
    assert restored[0].dtype == np.uint16


def test_nan_output_raises(clip):
    class Broken:
        num_frames, default_tile = 5, 8

        def __call__(self, windows, tile):
            return windows[:, 2].float() * float('nan')

    with pytest.raises(Exception, match='NaN or infinite values'):
        list(Deblurrer(Broken(), 'cuda')(clip))
