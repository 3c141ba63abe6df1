import cv2
import pytest
import torch
from torch import nn

from dblrgan_mm.nn import DBLRNet, rgb_to_luma
from dblrgan_mm.nn.dblrnet import ResidualBlock

TINY = dict(mid_channels=8, num_blocks=2)


def luma(rgb: torch.Tensor) -> torch.Tensor:
    """Return the luma of an RGB frame (3, h, w), computed by OpenCV, full range."""
    array = rgb.permute(1, 2, 0).contiguous().numpy()
    return torch.from_numpy(cv2.cvtColor(array, cv2.COLOR_RGB2YCrCb)[..., 0])


class TestSmoke:
    @pytest.mark.parametrize(('color', 'millions'), [('luma', 1.880), ('rgb', 1.885)])
    def test_parameters(self, color, millions):
        count = sum(p.numel() for p in DBLRNet(color=color).parameters())
        assert round(count / 1e6, 3) == millions

    def test_multiply_accumulates_per_pixel(self):
        macs = []

        def count(module, inputs, output):
            macs.append(output[0, 0].numel() * module.weight.numel())

        net = DBLRNet().eval()
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                module.register_forward_hook(count)
        with torch.no_grad():
            net(torch.rand(1, 5, 3, 8, 8))
        assert sum(macs) / 64 == pytest.approx(1.874e6, rel=1e-3)

    @pytest.mark.parametrize('num_frames', [1, 3, 5, 7, 9])
    @pytest.mark.parametrize('color', ['luma', 'rgb'])
    def test_any_odd_number_of_frames(self, num_frames, color):
        net = DBLRNet(num_frames, color, **TINY)
        assert net(torch.rand(2, num_frames, 3, 10, 7)).shape == (2, 3, 10, 7)

    def test_early_fusion_merges_all_frames_in_the_first_layer(self):
        net = DBLRNet(fusion='early', **TINY)
        assert net.head[0].weight.shape == (2, 1, 5, 3, 3)
        assert net.head[2].weight.shape == (8, 2, 1, 3, 3)
        assert net(torch.rand(2, 5, 3, 10, 7)).shape == (2, 3, 10, 7)
        with pytest.raises(ValueError, match="'slow' or 'early', got '2d'"):
            DBLRNet(fusion='2d')

    def test_one_frame_may_be_an_image(self):
        net = DBLRNet(1, **TINY).eval()
        image = torch.rand(2, 3, 9, 8)
        assert torch.equal(net(image), net(image[:, None]))

    @pytest.mark.parametrize('size', [(1, 1), (7, 5), (33, 16)])
    def test_any_size(self, size):
        assert DBLRNet(**TINY).eval()(torch.rand(1, 5, 3, *size)).shape == (1, 3, *size)


class TestLuma:
    def test_luma_equals_opencv(self, real_clip):
        frame = real_clip['blurry'][0]
        torch.testing.assert_close(rgb_to_luma(frame)[0], luma(frame), atol=1e-5, rtol=0)

    def test_chroma_is_that_of_the_centre_frame(self, real_clip):
        window = real_clip['blurry'][None, :5]
        with torch.no_grad():
            restored = DBLRNet(**TINY).eval()(window)[0]

        def chroma(frame):
            array = frame.permute(1, 2, 0).contiguous().numpy()
            return torch.from_numpy(cv2.cvtColor(array, cv2.COLOR_RGB2YCrCb)[..., 1:])

        torch.testing.assert_close(chroma(restored), chroma(window[0, 2]), atol=1e-5, rtol=0)
        assert (luma(restored) - luma(window[0, 2])).abs().mean() > 1e-3

    def test_network_input_is_luma_only(self):
        """Frames with equal luma and different chroma give the same restored luma."""
        net = DBLRNet(**TINY).eval()
        window = torch.rand(1, 5, 3, 12, 12)
        chroma = torch.tensor([0.587, -0.299, 0.0]).view(3, 1, 1)  # its luma is 0
        other = window + chroma * torch.rand(1, 5, 1, 1, 1)
        with torch.no_grad():
            torch.testing.assert_close(
                rgb_to_luma(net(window)), rgb_to_luma(net(other)), atol=1e-5, rtol=0
            )


class TestStructure:
    def test_halo_is_the_receptive_field(self):
        net = DBLRNet(mid_channels=16, num_blocks=3).eval()
        assert DBLRNet(mid_channels=4).halo == 35
        x = torch.rand(1, 5, 3, 31, 31, requires_grad=True)
        net(x)[0, :, 15, 15].sum().backward()
        rows = x.grad.abs().sum(dim=(0, 1, 2, 4)).nonzero()
        assert (rows.min().item(), rows.max().item()) == (15 - net.halo, 15 + net.halo)

    def test_every_frame_affects_the_output(self):
        x = torch.rand(1, 5, 3, 9, 9, requires_grad=True)
        DBLRNet(**TINY)(x).square().sum().backward()
        assert (x.grad.abs().sum(dim=(0, 2, 3, 4)) > 0).all()

    def test_initial_residual_output_is_the_centre_frame(self, real_clip):
        window = real_clip['blurry'][None, :5]
        net = DBLRNet(**TINY, norm=None, residual=True)
        with torch.no_grad():
            change = net(window) - window[:, 2]
        assert change.abs().mean() < 0.01

    def test_norm_none_has_no_norm(self):
        names = {type(m) for m in DBLRNet(**TINY, norm=None).modules()}
        assert nn.BatchNorm2d not in names
        assert nn.BatchNorm2d in {type(m) for m in DBLRNet(**TINY).modules()}

    @pytest.mark.parametrize('norm', ['BN', None])
    @pytest.mark.parametrize('color', ['luma', 'rgb'])
    def test_gradient_reaches_every_parameter(self, norm, color):
        net = DBLRNet(color=color, norm=norm, **TINY)
        net(torch.rand(2, 5, 3, 8, 8)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


class TestErrors:
    def test_wrong_number_of_frames(self):
        with pytest.raises(ValueError, match=r'\(n, 5, 3, h, w\), got \(1, 3, 3, 8, 8\): 3 frames'):
            DBLRNet(**TINY)(torch.rand(1, 3, 3, 8, 8))

    def test_wrong_number_of_channels(self):
        with pytest.raises(ValueError, match='5 frames, 1 channels'):
            DBLRNet(**TINY)(torch.rand(1, 5, 1, 8, 8))

    def test_an_image_instead_of_a_window(self):
        with pytest.raises(ValueError, match=r'got \(1, 3, 8, 8\)'):
            DBLRNet(**TINY)(torch.rand(1, 3, 8, 8))

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (dict(num_frames=4), 'num_frames must be odd'),
            (dict(num_frames=-1), 'num_frames must be odd'),
            (dict(color='yuv'), "'luma' or 'rgb', got 'yuv'"),
            (dict(norm='IN'), "'BN' or None, got 'IN'"),
            (dict(mid_channels=6), 'multiple of 4, got 6'),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            DBLRNet(**arguments)


def test_maps_and_their_gradients_stay_channels_last():
    """torch's convolutions are fast in this layout; one layer that breaks it slows later ones."""
    net = DBLRNet(mid_channels=8, num_blocks=2)
    seen = []

    def watch(module, inputs, maps):
        seen.append(maps)
        maps.register_hook(seen.append)

    sums = (ResidualBlock, torch.nn.Conv2d)
    for module in (*net.body.modules(), *net.tail.modules()):
        if isinstance(module, sums):
            module.register_forward_hook(watch)
    net.tail[0].register_forward_pre_hook(lambda module, inputs: watch(module, (), inputs[0]))
    net(torch.rand(1, 5, 3, 16, 24)).square().sum().backward()
    assert len(seen) == 2 * (2 * 3 + 3 + 1)
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in seen)
