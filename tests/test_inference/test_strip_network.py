"""The strip network computes the same as DBLRNet."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dblrgan_mm.inference.networks.layers import unit_range
from dblrgan_mm.inference.networks.strip_network import StripDBLRNet, strips
from dblrgan_mm.inference.networks.winograd import NarrowConv, RowWinograd
from dblrgan_mm.nn import DBLRNet

VARIANTS = [
    dict(),
    dict(color='rgb', num_frames=3),
    dict(num_frames=1, norm=None),
    dict(num_frames=7, residual=True),
    dict(num_blocks=0),
    dict(color='rgb', norm=None, residual=True, mid_channels=4),
    dict(mid_channels=32, num_blocks=1),  # wide enough for Winograd convolutions
    pytest.param(
        dict(mid_channels=128, num_blocks=1, num_frames=3, color='rgb'), marks=pytest.mark.slow
    ),
]


def trained(**arguments) -> DBLRNet:
    """Return a network whose batch statistics and output differ from the initial ones."""
    net = DBLRNet(**dict(mid_channels=16, num_blocks=3) | arguments).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    net.tail[-1].weight.data *= 30
    return net


def strip_network(net: DBLRNet, dtype=torch.float32) -> StripDBLRNet:
    architecture = dict(num_frames=net.num_frames, color=net.color, residual=net.residual)
    return StripDBLRNet(net.state_dict(), architecture, dtype)


def windows_of(real_clip, net, height, width, count=2) -> torch.Tensor:
    frames = real_clip['blurry'][..., :height, :width]
    return torch.stack([frames[i : i + net.num_frames] for i in range(count)])


class TestEqualsDBLRNet:
    @pytest.mark.parametrize('arguments', VARIANTS, ids=str)
    @pytest.mark.parametrize('size', [(144, 96), (1, 1), (7, 5), (2, 40), (61, 3)])
    @torch.inference_mode()
    def test_untiled_and_in_strips(self, real_clip, arguments, size):
        net = trained(**arguments)
        windows = windows_of(real_clip, net, *size)
        expected = net(windows)
        network = strip_network(net)
        assert expected.std() > 0.02 or size == (1, 1)  # the output is not constant
        for tile in (None, 1, 3, 16, 64, 1000):
            torch.testing.assert_close(network(windows, tile), expected, rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_default_architecture(self, real_clip):
        net = trained(mid_channels=64, num_blocks=15)
        windows = windows_of(real_clip, net, 90, 60, count=1)
        expected = net(windows)
        network = strip_network(net)
        assert network.halo == net.halo == 35
        assert (network(windows) - expected).abs().max() < 1e-5
        assert (network(windows, 16) - expected).abs().max() < 1e-5

    @torch.inference_mode()
    def test_half_weights_are_computed_in_the_requested_dtype(self, real_clip):
        net = trained()
        windows = windows_of(real_clip, net, 64, 64)
        expected = net(windows)
        half = strip_network(net.half())
        assert half.head[0].weight.dtype == torch.float32
        torch.testing.assert_close(half(windows), expected, rtol=0, atol=5e-3)

    @torch.inference_mode()
    def test_bfloat16_is_close(self, real_clip):
        net = trained()
        windows = windows_of(real_clip, net, 144, 200)
        error = strip_network(net, torch.bfloat16)(windows, 16) - net(windows)
        assert 0 < error.square().mean().sqrt() < 4e-3  # one of 255 grey levels

    @torch.inference_mode()
    def test_integer_frames_are_taken_over_their_full_range(self, real_clip):
        net = trained()
        network = strip_network(net)
        windows = windows_of(real_clip, net, 40, 30)
        bytes_ = (windows * 255).round().to(torch.uint8)
        words = (bytes_.int() * 257).to(torch.uint16)
        assert torch.equal(unit_range(bytes_), windows)
        expected = network(windows)
        torch.testing.assert_close(network(bytes_, 8), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(words, 8), expected, rtol=0, atol=1e-5)


def test_given_weights_are_not_changed(real_clip):
    net = trained()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    strip_network(net, torch.bfloat16)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    ('height', 'tile', 'halo'), [(1, 1, 5), (100, 7, 35), (36, 1, 35), (9, 9, 0)]
)
def test_strips_cover_every_row_once(height, tile, halo):
    cut = strips(height, tile, halo)
    assert [row for begin, end in cut for row in range(begin, end)] == list(range(height))
    assert len(cut) == 1 or cut[0] == (0, tile + halo)


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that an operation creates, in values."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in self.given:
            self.values = max(self.values, out.numel())
        return out


def test_memory_of_a_strip_does_not_grow_with_the_height():
    network = strip_network(trained())
    rows = 8 + network.halo + 2
    for height in (100, 300):
        windows = torch.zeros(1, 5, 3, height, 16)
        with torch.no_grad(), Largest(windows, *network.buffers()) as largest:
            network(windows, tile=8)
        assert largest.values <= 64 * rows * 16
    with torch.no_grad(), Largest(windows, *network.buffers()) as largest:
        network(windows)
    assert largest.values == 64 * 300 * 16


@pytest.mark.parametrize('width', [1, 2, 70])
@pytest.mark.parametrize('channels', [(3, 8), (64, 128)])
def test_row_winograd_rounds_about_as_a_direct_convolution(real_clip, width, channels):
    c_in, c_out = channels
    frames = real_clip['blurry'].flatten(0, 1)
    maps = frames.repeat(4, 1, 1)[:c_in, :8, :width]
    weight = torch.randn(c_out, c_in, 3, 3) / (3 * c_in**0.5)
    bias = torch.randn(c_out)
    exact = F.conv2d(maps[None].double(), weight.double(), bias.double(), padding=(0, 1))[0]
    direct = F.conv2d(maps[None], weight, bias, padding=(0, 1))[0]
    found = RowWinograd(weight, bias)(maps.permute(1, 2, 0)).permute(2, 0, 1)
    assert (found - exact).abs().max() < max(3 * (direct - exact).abs().max(), 2e-6)


@pytest.mark.parametrize('size', [(1, 1), (1, 7), (5, 2), (12, 40)])
@pytest.mark.parametrize('c_out', [1, 3])
def test_narrow_conv(real_clip, size, c_out):
    height, width = size
    maps = real_clip['blurry'].flatten(0, 1)[:24, : height + 2, :width]
    weight, bias = torch.randn(c_out, 24, 3, 3), torch.randn(c_out)
    expected = F.conv2d(maps[None], weight, bias, padding=(0, 1))[0]
    torch.testing.assert_close(NarrowConv(weight, bias)(maps), expected, rtol=0, atol=2e-5)
