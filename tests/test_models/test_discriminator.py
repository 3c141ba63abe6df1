import pytest
import torch
from torch import nn

from dblrgan_mm.nn import FrameSequenceDiscriminator

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


class TestParts:
    @pytest.mark.parametrize('training', [False, True])
    def test_parts_give_the_logits_of_the_whole_clip(self, training):
        net = FrameSequenceDiscriminator(5, **TINY).train(training)
        clip = torch.rand(2, 5, 3, 16, 16)
        parts = clip.split([2, 1, 2], dim=1)
        torch.testing.assert_close(net(parts), net(clip), atol=1e-5, rtol=1e-5)

    def test_frames_without_gradient_store_nothing(self):
        net = FrameSequenceDiscriminator(5, **TINY).eval().requires_grad_(False)
        sharp, restored = torch.rand(1, 4, 3, 16, 16), torch.rand(1, 1, 3, 16, 16)
        restored.requires_grad_()
        needed = []
        net.frame_features.register_forward_hook(lambda *args: needed.append(args[2].requires_grad))
        parts = [sharp[:, :2], restored, sharp[:, 2:]]
        net(parts).sum().backward()
        assert needed == [False, True, False]
        in_parts, restored.grad = restored.grad, None
        net(torch.cat(parts, dim=1)).sum().backward()
        torch.testing.assert_close(in_parts, restored.grad)

    def test_too_few(self):
        with pytest.raises(ValueError, match=r'got \(1, 2, 3, 16, 16\) and \(1, 1, 3, 16, 16\)'):
            FrameSequenceDiscriminator(5, **TINY).eval()(
                [torch.rand(1, 2, 3, 16, 16), torch.rand(1, 1, 3, 16, 16)]
            )


class TestErrors:
    @pytest.mark.parametrize('shape', [(1, 3, 3, 16, 16), (1, 5, 1, 16, 16), (1, 3, 16, 16)])
    def test_shapes(self, shape):
        with pytest.raises(ValueError, match=r'\(n, 5, 3, h, w\), got \(1,'):
            FrameSequenceDiscriminator(5, **TINY)(torch.rand(shape))

    def test_no_frame(self):
        with pytest.raises(ValueError, match='at least one frame'):
            FrameSequenceDiscriminator(0)


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_maps_and_their_gradients_stay_channels_last(mode):
    net = FrameSequenceDiscriminator(5, **TINY).train(mode == 'train')
    seen = []

    def watch(module, inputs, maps):
        seen.append(maps)
        if maps.requires_grad:
            maps.register_hook(seen.append)

    # all except the last one, whose maps are averaged
    relus = [m for m in (*net.frame_features, *net.features.modules()) if isinstance(m, nn.ReLU)]
    for module in relus[:-1]:
        module.register_forward_hook(watch)
    clips = torch.rand(2, 5, 3, 16, 24, requires_grad=True)
    net(list(clips.split([2, 1, 2], dim=1))).sum().backward()
    assert len(seen) == 2 * (3 if mode == 'train' else 3 * 2 + 1)
    assert all(maps.stride(1) == 1 for maps in seen)


def test_frames_of_a_clip_stay_in_order():
    net = FrameSequenceDiscriminator(3, **TINY)
    maps = torch.rand(2 * 3, 8, 4, 6)
    expected = maps.unflatten(0, (2, 3)).flatten(1, 2)
    assert torch.equal(net._side_by_side(maps, 2), expected)
