import itertools

import pytest
import torch
from torch import nn

from dblrgan_mm.nn import MultiScaleDBLRNet, align_frames, rgb_to_luma

TINY = dict(channels=(8, 8, 12), num_blocks=(1, 1, 1, 1, 1))


def lively(**arguments) -> MultiScaleDBLRNet:
    """Return a network whose output is not close to zero, so that differences show."""
    net = MultiScaleDBLRNet(**{**TINY, **arguments}).eval()
    net.tail.weight.data *= 100
    return net


class TestSize:
    @pytest.mark.parametrize(('color', 'millions'), [('luma', 0.485), ('rgb', 0.487)])
    def test_parameters(self, color, millions):
        count = sum(p.numel() for p in MultiScaleDBLRNet(color=color).parameters())
        assert round(count / 1e6, 3) == millions

    @pytest.mark.parametrize(('align', 'thousands'), [(False, 44.5), (True, 45.1)])
    def test_multiply_accumulates_per_pixel(self, align, thousands):
        macs = []

        def count(module, inputs, output):
            transposed = isinstance(module, nn.ConvTranspose2d)
            macs.append((inputs[0] if transposed else output)[0, 0].numel() * module.weight.numel())

        net = MultiScaleDBLRNet(align=align).eval()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)):
                module.register_forward_hook(count)
        with torch.no_grad():
            net(torch.rand(1, 5, 3, 64, 64))
        assert sum(macs) / 64**2 == pytest.approx(1e3 * thousands, rel=1e-3)

    @pytest.mark.parametrize('num_frames', [1, 3, 5, 7])
    @pytest.mark.parametrize('color', ['luma', 'rgb'])
    def test_any_odd_number_of_frames(self, num_frames, color):
        net = MultiScaleDBLRNet(num_frames, color, **TINY)
        assert net(torch.rand(2, num_frames, 3, 10, 7)).shape == (2, 3, 10, 7)

    @pytest.mark.parametrize('size', [(1, 1), (3, 2), (8, 8), (7, 21), (33, 16)])
    def test_any_size(self, size):
        """Including sizes smaller than the coarsest scale and not a multiple of it."""
        restored = MultiScaleDBLRNet()(torch.rand(1, 5, 3, *size))
        assert restored.shape == (1, 3, *size)
        assert restored.isfinite().all()

    def test_one_frame_may_be_an_image(self):
        net = lively(num_frames=1)
        image = torch.rand(2, 3, 9, 8)
        assert torch.equal(net(image), net(image[:, None]))


class TestColor:
    def test_chroma_is_that_of_the_centre_frame(self, real_clip):
        window = real_clip['blurry'][None, :5]
        with torch.no_grad():
            change = lively()(window) - window[:, 2]
        assert change.abs().mean() > 1e-3
        torch.testing.assert_close(change, change[:, :1].expand_as(change), atol=1e-6, rtol=0)

    def test_network_input_is_luma_only(self):
        window = torch.rand(1, 5, 3, 12, 12)
        chroma = torch.tensor([0.587, -0.299, 0.0]).view(3, 1, 1)  # its luma is 0
        other = window + chroma * torch.rand(1, 5, 1, 1, 1)
        net = lively()
        with torch.no_grad():
            torch.testing.assert_close(
                rgb_to_luma(net(window)), rgb_to_luma(net(other)), atol=1e-5, rtol=0
            )

    def test_initial_output_is_the_centre_frame(self, real_clip):
        window = real_clip['blurry'][None, :5]
        with torch.no_grad():
            change = MultiScaleDBLRNet()(window) - window[:, 2]
        assert 0 < change.abs().mean() < 0.01


class TestStructure:
    @pytest.mark.parametrize(
        'num_blocks', [(1, 1, 2, 3, 2, 1, 3), (1, 0, 0, 2, 1, 0, 1), (0, 0, 0)]
    )
    def test_halo_is_the_receptive_field(self, num_blocks):
        """For a crop aligned to multiples; the actual reach is at most one multiple shorter."""
        net = MultiScaleDBLRNet(channels=(9,) * (len(num_blocks) // 2 + 1), num_blocks=num_blocks)
        net.tail.weight.data *= 100
        step, size = net.multiple, 2 * net.halo + 2 * net.multiple
        x = torch.rand(1, 5, 3, size, 16, requires_grad=True)
        crop = slice(net.halo, net.halo + step)
        net(x)[0, :, crop].square().sum().backward()
        rows = x.grad.abs().sum(dim=(0, 1, 2, 4)).nonzero()
        assert 0 <= rows.min() <= step
        assert 0 <= net.halo + step + net.halo - 1 - rows.max() <= step

    def test_tiles_equal_the_whole(self, real_clip):
        """Each tile is computed with its halo; the sides are not multiples."""
        window = real_clip['blurry'][None, :5, :, :141, :251]
        net = MultiScaleDBLRNet(channels=(8, 12, 16, 16), num_blocks=(0, 1, 1, 1, 1, 1, 0)).eval()
        net.tail.weight.data *= 100
        tile = 64
        assert net.halo + tile < 141
        with torch.no_grad():
            whole = net(window)
            assert (whole - window[:, 2]).abs().mean() > 1e-3
            for top, left in itertools.product(range(0, 141, tile), range(0, 251, tile)):
                above, before = max(0, top - net.halo), max(0, left - net.halo)
                part = net(
                    window[..., above : top + tile + net.halo, before : left + tile + net.halo]
                )
                part = part[..., top - above :, left - before :][..., :tile, :tile]
                expected = whole[..., top : top + tile, left : left + tile]
                torch.testing.assert_close(part, expected, atol=1e-5, rtol=0)

    def test_every_frame_affects_the_output(self):
        x = torch.rand(1, 5, 3, 9, 9, requires_grad=True)
        lively()(x).square().sum().backward()
        assert (x.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()

    @pytest.mark.parametrize('color', ['luma', 'rgb'])
    def test_gradient_reaches_every_parameter(self, color):
        net = lively(color=color)
        net(torch.rand(2, 5, 3, 8, 8)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())

    def test_maps_keep_their_spread(self, real_clip):
        """Layer inputs are neither tiny nor huge, so that one learning rate fits all layers."""
        spreads = []
        net = MultiScaleDBLRNet()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(lambda m, i, o: spreads.append(i[0].std().item()))
        net(real_clip['blurry'][None, :5])
        assert 0.1 < min(spreads) < max(spreads) < 10

    def test_maps_and_their_gradients_stay_channels_last(self):
        seen = []

        def watch(module, inputs, maps):
            seen.append(maps)
            if maps.requires_grad:
                maps.register_hook(seen.append)

        net = MultiScaleDBLRNet(**TINY)
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Sequential)
        watched = [m for m in net.modules() if isinstance(m, kinds)]
        for module in watched:
            module.register_forward_hook(watch)
        net(torch.rand(1, 5, 3, 16, 24)).square().sum().backward()
        assert len(seen) == 2 * len(watched)
        assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen)


class TestAlignment:
    def test_frames_are_aligned_first(self, real_clip):
        window = real_clip['blurry'][None, :5]
        net = lively(align=True)
        luma = rgb_to_luma(window)
        aligned = align_frames(luma, luma)
        with torch.no_grad():
            assert (aligned[:, :5] - luma).abs().mean() > 1e-3
            torch.testing.assert_close(net(window), window[:, 2] + net.difference(aligned))

    @pytest.mark.parametrize('size', [(1, 1), (3, 2), (7, 21), (33, 16)])
    def test_any_size(self, size):
        assert lively(align=True)(torch.rand(1, 5, 3, *size)).isfinite().all()

    def test_weights_cannot_be_used_without_it(self):
        with pytest.raises(RuntimeError, match=r'Unexpected key.*alignment'):
            MultiScaleDBLRNet(**TINY).load_state_dict(lively(align=True).state_dict())
        with pytest.raises(RuntimeError, match=r'Missing key.*alignment'):
            MultiScaleDBLRNet(**TINY, align=True).load_state_dict(lively().state_dict())

    def test_one_frame_needs_none(self):
        net = lively(align=True, num_frames=1)
        image = torch.rand(2, 3, 9, 8)
        with torch.no_grad():
            expected = image + net.difference(rgb_to_luma(image[:, None]))
            assert torch.equal(net(image), expected)


class TestErrors:
    def test_wrong_number_of_frames(self):
        with pytest.raises(ValueError, match=r'\(n, 5, 3, h, w\), got \(1, 3, 3, 8, 8\): 3 frames'):
            MultiScaleDBLRNet(**TINY)(torch.rand(1, 3, 3, 8, 8))

    def test_an_image_instead_of_a_window(self):
        with pytest.raises(ValueError, match=r'got \(1, 3, 8, 8\)'):
            MultiScaleDBLRNet(**TINY)(torch.rand(1, 3, 8, 8))

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(num_frames=4), 'num_frames must be odd'),
            (dict(color='yuv'), "'luma' or 'rgb', got 'yuv'"),
            (dict(channels=(8, 8), num_blocks=(1, 1)), 'on the way down and up'),
            (dict(channels=(8,), num_blocks=(1,)), 'two scales or more'),
            (dict(channels=(8, 0), num_blocks=(1, 1, 1)), 'channels must be positive'),
            (dict(channels=(8, 8), num_blocks=(1, -1, 1)), 'num_blocks not negative'),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            MultiScaleDBLRNet(**arguments)
