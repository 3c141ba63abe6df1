import pytest
import torch
from torch import nn

from dblrgan_mm.models import FrameSequenceDiscriminator

TINY = dict(conv_channels=((8, 8), (16, 16)), fc_channels=16)


class TestSmoke:
    def test_layers_are_those_described(self):
        net = FrameSequenceDiscriminator()
        convolutions = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert convolutions == [64] * 2 + [128] * 3 + [256] * 4 + [512] * 5
        linear = [m.out_features for m in net.modules() if isinstance(m, nn.Linear)]
        assert linear == [4096, 4096, 1]

    @pytest.mark.parametrize('num_frames', [1, 2, 3, 5])
    @pytest.mark.parametrize('size', [(16, 16), (33, 50)])
    def test_any_crop_size(self, num_frames, size):
        net = FrameSequenceDiscriminator(num_frames, **TINY)
        assert net(torch.rand(2, num_frames, 3, *size)).shape == (2, 1)

    def test_one_frame_may_come_as_an_image(self):
        net = FrameSequenceDiscriminator(1, **TINY).eval()
        image = torch.rand(2, 3, 16, 16)
        torch.testing.assert_close(net(image), net(image[:, None]))

    def test_order_of_frames_matters(self):
        net = FrameSequenceDiscriminator(5, **TINY).eval()
        clip = torch.rand(1, 5, 3, 16, 16)
        assert (net(clip) - net(clip.flip(1))).abs().item() > 1e-6


class TestErrors:
    @pytest.mark.parametrize('shape', [(1, 3, 3, 16, 16), (1, 5, 1, 16, 16), (1, 3, 16, 16)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match=r'\(n, 5, 3, h, w\), got \(1,'):
            FrameSequenceDiscriminator(5, **TINY)(torch.rand(shape))

    def test_no_frame(self):
        with pytest.raises(ValueError, match='at least one frame'):
            FrameSequenceDiscriminator(0)
