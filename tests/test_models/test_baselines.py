import pytest
import torch
from mmagic.registry import MODELS

EDVR = dict(
    type='EDVRDeblurNet',
    mid_channels=8,
    deform_groups=2,
    num_blocks_extraction=1,
    num_blocks_reconstruction=1,
)
BASICVSR = dict(type='BasicVSRPlusPlusDeblurNet', mid_channels=8, num_blocks=1)


def test_edvr_keeps_the_size_and_starts_from_the_centre_frame(real_clip):
    net = MODELS.build(EDVR).eval()
    net.conv_last.weight.data.zero_()
    net.conv_last.bias.data.zero_()
    window = real_clip['blurry'][None, :5]  # 254 pixels wide, not a multiple of 16
    with torch.no_grad():
        torch.testing.assert_close(net(window), window[:, 2])


@pytest.mark.parametrize('size', [(16, 16), (30, 45)])
def test_edvr_learns_with_all_its_weights(size):
    net = MODELS.build(EDVR)
    out = net(torch.rand(2, 5, 3, *size))
    assert out.shape == (2, 3, *size)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize('size', [(64, 64), (66, 101)])
def test_basicvsr_pp_takes_small_frames(size):
    """MMagic's network refuses fewer than 256 rows or columns."""
    net = MODELS.build(BASICVSR)
    out = net(torch.rand(1, 3, 3, *size))
    assert out.shape == (1, 3, 3, *size)
    out.square().mean().backward()
    gradients = [p.grad is not None for p in net.parameters()]
    assert sum(gradients) > 0.9 * len(gradients)
