"""DBLRNet in int8."""

from functools import partial

import numpy as np
import pytest
import torch
from test_strip_network import VARIANTS, strip_network, trained, windows_of
from torch.nn import functional as F

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference.checkpoint import Generator, load_generator
from dblrgan_mm.inference.deblurrer import released
from dblrgan_mm.inference.networks import int8
from dblrgan_mm.inference.networks import strip_network as strip_network_module
from dblrgan_mm.inference.networks.int8 import Int8Conv, dead_leaves
from dblrgan_mm.inference.networks.layers import Conv
from dblrgan_mm.inference.networks.strip_network import StripDBLRNet


def convolve_exactly(layer, x, step, after):
    """Do what ``Int8Conv._convolve`` does, on any CPU."""
    integers = x if x.dtype == torch.uint8 else layer.quantized(x)
    sums = F.conv2d(integers.double() - layer.zero, layer.packed.double(), padding=(0, 1))
    out = sums * (layer.step * layer.steps.view(-1, 1, 1)) + layer.bias.view(-1, 1, 1)
    out = out.relu() if after == 'relu' else out
    return out.float() if step is None else (out / step).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(params=['VNNI', 'emulated'])
def arithmetic(request, monkeypatch) -> None:
    """Use the CPU's integer arithmetic, or an emulation where a CPU may lack VNNI."""
    if request.param == 'VNNI':
        if not int8.has_int8():
            pytest.skip('needs a CPU with VNNI')
    else:
        monkeypatch.setattr(strip_network_module, 'has_int8', lambda: True)
        monkeypatch.setattr(Int8Conv, '_packed', lambda layer, integers: integers)
        monkeypatch.setattr(Int8Conv, '_convolve', convolve_exactly)


@pytest.fixture(scope='module')
def generator() -> Generator:
    return load_generator(released()['dblrnet_plus'])


def network(generator: Generator, dtype=torch.int8) -> StripDBLRNet:
    return StripDBLRNet(generator.state_dict, generator.architecture, dtype)


@pytest.mark.usefixtures('arithmetic')
class TestInt8Conv:
    @pytest.mark.parametrize('shape', [(1, 5, 40), (2, 3, 1)])
    @pytest.mark.parametrize(('low', 'high'), [(0.0, 1.0), (-0.7, 1.9)])
    @pytest.mark.parametrize(('c_in', 'c_out'), [(12, 16), (64, 64), (16, 1)])
    def test_equals_convolution_of_rounded_values(self, shape, low, high, c_in, c_out):
        count, height, width = shape
        weight, bias = torch.randn(c_out, c_in, 3, 3), torch.randn(c_out)
        maps = low + (high - low) * torch.rand(count, c_in, height, width)
        layer = Int8Conv(weight, bias, low, high, torch.float32)
        integers = layer.quantized(maps)
        values = (integers.float() - layer.zero) * layer.step
        assert (values - maps).abs().max() < 0.51 * (high - low) / 255
        steps = weight.abs().amax((1, 2, 3), keepdim=True) / 127
        expected = F.conv2d(values, (weight / steps).round() * steps, bias, padding=(0, 1))
        torch.testing.assert_close(layer(maps), expected, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(layer(integers), expected, rtol=1e-5, atol=1e-4)

    def test_values_outside_the_range_are_clipped(self):
        layer = Int8Conv(torch.randn(4, 4, 3, 3), torch.zeros(4), -100, 155, torch.float32)
        maps = torch.ones(1, 4, 3, 8)
        assert torch.equal(layer(1000 * maps), layer(155 * maps))
        assert torch.equal(layer(-1000 * maps), layer(-100 * maps))

    def test_maps_that_are_always_zero(self):
        layer = Int8Conv(torch.zeros(4, 4, 3, 3), torch.arange(4.0), 0, 0, torch.uint8)
        out = layer(torch.zeros(1, 4, 3, 8, dtype=torch.uint8))
        assert torch.equal(out, torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 1, 8))


@pytest.mark.usefixtures('arithmetic')
class TestNetwork:
    @torch.inference_mode()
    def test_is_close_to_float32_on_real_frames(self, generator, real_clip):
        windows = real_clip['blurry'][None, :5]
        exact, rounded = network(generator, torch.float32)(windows), network(generator)(windows)
        error = rounded - exact
        assert 0 < error.square().mean().sqrt() < 0.4 / 255
        change = exact - windows[:, 2]
        assert error.square().mean() < 0.01 * change.square().mean()

    @torch.inference_mode()
    def test_strips_and_other_windows_make_no_difference(self, generator, real_clip):
        net = network(generator)
        blurry = real_clip['blurry'][..., :40, :64]
        windows = torch.stack([blurry[i : i + 5] for i in range(2)])
        expected = net(windows)
        for tile in (1, 7, 48, 1000):
            torch.testing.assert_close(net(windows, tile), expected, rtol=0, atol=1 / 255)
        torch.testing.assert_close(net(windows[1:], 16), expected[1:], rtol=0, atol=1 / 255)

    @pytest.mark.parametrize('arguments', VARIANTS, ids=str)
    @torch.inference_mode()
    def test_architectures_and_sizes(self, monkeypatch, real_clip, arguments):
        monkeypatch.setattr(strip_network_module, 'dead_leaves', partial(dead_leaves, size=64))
        net = trained(**arguments)
        rounded = strip_network(net, torch.int8)
        for size in ((1, 1), (7, 5), (61, 40)):
            windows = windows_of(real_clip, net, *size)
            expected = net(windows)
            for tile in (None, 3, 16):
                error = rounded(windows, tile) - expected
                assert error.square().mean().sqrt() < 0.1 * max(expected.std(), 0.2), (size, tile)

    @torch.inference_mode()
    def test_ranges_hold_for_moving_pictures(self, generator):
        exact, rounded = network(generator, torch.float32), network(generator)
        over = {}

        def note(name, layer, inputs):
            low, high = -layer.zero * layer.step, (255 - layer.zero) * layer.step
            reach = max(inputs[0].max() - high, low - inputs[0].min()) / (high - low)
            over[name] = max(over.get(name, 0.0), reach.item())

        layers = dict(rounded.named_modules())
        for name, module in exact.named_modules():
            if isinstance(module, Conv) and isinstance(layers[name], Int8Conv):
                module.register_forward_pre_hook(
                    lambda _, inputs, name=name: note(name, layers[name], inputs)
                )
        for motion in (2.0, 8.0):
            leaves = torch.from_numpy(dead_leaves(5, motion, seed=7)).permute(0, 3, 1, 2)
            exact(leaves[None])
        assert len(over) == 16
        assert max(over.values()) < 0.25, 'of the range'

    def test_inaccurate_network_is_refused(self, generator):
        # one channel is 10000 times as large as all others, and is not used
        state = {key: value.clone() for key, value in generator.state_dict.items()}
        state['head.2.bias'][0] = 1e4
        for key in ('body.0.conv1', 'body.1.conv1', 'body.2.conv1', 'body.3.conv1', 'body.4.conv1',
                    'body.5.conv1', 'tail.0'):  # fmt: skip
            state[f'{key}.weight'][:, 0] = 0
        with pytest.raises(UserError, match=r'int8 is too inaccurate for this network: .* of 255'):
            StripDBLRNet(state, generator.architecture, torch.int8)

    def test_nan_weights_are_refused(self, generator):
        state = dict(generator.state_dict, **{'head.2.bias': torch.full((16,), torch.nan)})
        with pytest.raises(UserError, match='NaN or infinite values: its weights are damaged'):
            StripDBLRNet(state, generator.architecture, torch.int8)


def test_a_cpu_without_vnni(monkeypatch, generator):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx2=True), raising=False)
    with pytest.raises(UserError, match='int8 needs an x86 CPU with VNNI'):
        network(generator)


def test_dead_leaves_strain_a_network():
    image, *_, last = dead_leaves(5, motion=4.0)
    assert np.array_equal(image, dead_leaves(5, motion=4.0)[0])
    assert image.shape == (256, 256, 3)
    assert image.dtype == np.uint8
    for extreme in (0, 255):
        assert 0.02 < (image == extreme).all(axis=2).mean() < 0.4, 'pure black and white'
    steps = np.abs(np.diff(image.astype(int), axis=1)).max(axis=2)
    assert (steps > 100).mean() > 0.01, 'sharp edges'
    assert (steps == 0).mean() > 0.5, 'plain areas'
    assert (image != last).any(axis=2).mean() > 0.3, 'motion'
    still = dead_leaves(3)
    assert (still == still[:1]).all()
    assert not np.array_equal(still[0], dead_leaves(1, seed=1)[0])
