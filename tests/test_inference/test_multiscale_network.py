"""The inference network computes the same as MultiScaleDBLRNet."""

import numpy as np
import pytest
import torch
from test_strip_network import Largest

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference.checkpoint import Generator, load_generator, publish
from dblrgan_mm.inference.networks.multiscale_network import StripMultiScaleDBLRNet
from dblrgan_mm.inference.networks.onnx_network import OnnxNetwork
from dblrgan_mm.nn import MultiScaleDBLRNet
from dblrgan_mm.nn.alignment import PATH

VARIANTS = [
    dict(),
    dict(num_frames=1, color='rgb', channels=(4, 8), num_blocks=(1, 0, 1)),
    dict(num_frames=3, channels=(5, 6, 7), num_blocks=(2, 0, 1, 0, 2)),
    dict(num_frames=7, channels=(4, 4, 4, 48, 50), num_blocks=(0, 0, 2, 0, 1, 0, 2, 0, 0)),
    dict(channels=(4, 8), num_blocks=(0, 0, 0)),
    dict(color='rgb', channels=(4, 8, 8), num_blocks=(2, 2, 0, 0, 1)),
    dict(align=True, channels=(4, 8), num_blocks=(0, 1, 0)),
    dict(align=True, num_frames=3, color='rgb', channels=(4, 8), num_blocks=(0, 1, 0)),
]


def trained(**arguments) -> MultiScaleDBLRNet:
    """Return a network whose output and biases are not close to zero, so that differences show."""
    net = MultiScaleDBLRNet(**arguments).eval()
    for parameter in net.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0, 0.1)
    net.tail.weight.data *= 100
    return net


def architecture_of(net: MultiScaleDBLRNet) -> dict:
    return dict(
        type='MultiScaleDBLRNet',
        num_frames=net.num_frames,
        color=net.color,
        channels=(net.head.out_channels, *(down.out_channels for down in net.down)),
        num_blocks=(
            *map(len, net.encoders),
            len(net.body),
            *map(len, reversed(net.decoders)),
        ),
        align=net.align,
    )


def generator_of(net: MultiScaleDBLRNet) -> Generator:
    return Generator(architecture_of(net), net.state_dict())


def strip_network(net: MultiScaleDBLRNet, dtype=torch.float32) -> StripMultiScaleDBLRNet:
    return StripMultiScaleDBLRNet(net.state_dict(), architecture_of(net), dtype)


def windows_of(real_clip, net, height, width, count=1) -> torch.Tensor:
    frames = real_clip['blurry'][..., :height, :width]
    return torch.stack([frames[i : i + net.num_frames] for i in range(count)])


class TestEqualsMultiScaleDBLRNet:
    @pytest.mark.parametrize('arguments', VARIANTS, ids=str)
    @pytest.mark.parametrize('size', [(144, 45), (1, 1), (7, 5), (8, 8), (61, 3)])
    @torch.inference_mode()
    def test_untiled_and_in_strips(self, real_clip, arguments, size):
        net = trained(**arguments)
        windows = windows_of(real_clip, net, *size, count=2)
        expected = net(windows)
        assert (expected - windows[:, net.num_frames // 2]).abs().mean() > 1e-3
        network = strip_network(net)
        assert network.halo == net.halo
        for tile in (None, 1, 20, 1000):
            torch.testing.assert_close(network(windows, tile), expected, rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_one_window_on_a_cpu_by_fewer_multiplications(self, real_clip):
        """A single window uses other code paths than several windows."""
        net = trained()
        windows = windows_of(real_clip, net, 144, 251)
        expected = net(windows)
        network = strip_network(net)
        for tile in (None, 48):
            torch.testing.assert_close(network(windows, tile), expected, rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_bfloat16_is_close(self, real_clip):
        net = trained()
        windows = windows_of(real_clip, net, 144, 200)
        expected = net(windows)
        change = (expected - windows[:, 2]).square().mean().sqrt()
        error = strip_network(net, torch.bfloat16)(windows, 48) - expected
        assert 0 < error.square().mean().sqrt() < 0.01 * change

    @torch.inference_mode()
    def test_integer_frames_are_taken_over_their_full_range(self, real_clip):
        network = strip_network(trained())
        windows = real_clip['blurry'][None, :5, :, :40, :30]
        bytes_ = (windows * 255).round().to(torch.uint8)
        words = (bytes_.int() * 257).to(torch.uint16)
        expected = network(windows)
        torch.testing.assert_close(network(bytes_, 8), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(words, 8), expected, rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_given_frames_and_weights_are_not_changed(self, real_clip):
        net = trained(color='rgb', num_frames=1)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        windows = windows_of(real_clip, net, 16, 16).contiguous()
        given = windows.clone()
        strip_network(net, torch.bfloat16)
        strip_network(net)(windows)
        assert torch.equal(windows, given)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_memory_of_a_strip_does_not_grow_with_the_height():
    net = trained(channels=(8, 8, 8), num_blocks=(1, 1, 1, 1, 1))
    network = strip_network(net)
    rows = 16 + network.halo + 3
    for height in (120, 240):
        windows = torch.zeros(1, 5, 3, height, 16)
        with torch.no_grad(), Largest(windows, *network.buffers()) as largest:
            network(windows, tile=16)
        assert largest.values <= max(8 * rows * 18, 3 * height * 16)  # padded maps; result
    with torch.no_grad(), Largest(windows, *network.buffers()) as largest:
        network(windows)
    assert largest.values == 8 * 240 * 16


class TestCheckpoint:
    @pytest.mark.parametrize('arguments', VARIANTS, ids=str)
    @pytest.mark.parametrize(
        'store',
        [
            lambda s: s,
            lambda s: {f'module.{k}': v for k, v in s.items()},
            lambda s: dict(state_dict={f'generator.{k}': v for k, v in s.items()}, meta=dict()),
        ],
        ids=['bare', 'DDP', 'training'],
    )
    def test_round_trip(self, tmp_path, arguments, store):
        net = trained(**arguments)
        torch.save(store(net.state_dict()), tmp_path / 'net.pth')
        generator = load_generator(tmp_path / 'net.pth')
        assert generator.architecture == architecture_of(net)
        again = load_generator(publish(generator, tmp_path / 'fine.pth', 'x', 'y'))
        assert again.architecture == generator.architecture == again.meta['architecture']
        assert again.architecture.pop('type') == 'MultiScaleDBLRNet'
        same = MultiScaleDBLRNet(**again.architecture)
        same.load_state_dict(again.state_dict)
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in same.state_dict().items())

    def test_average_is_used(self, tmp_path):
        net, average = trained(**VARIANTS[1]), trained(**VARIANTS[1])
        weights = {f'generator.{k}': v for k, v in net.state_dict().items()}
        weights |= {f'generator_ema.module.{k}': v for k, v in average.state_dict().items()}
        weights['generator_ema.steps'] = torch.tensor(7)
        torch.save(dict(state_dict=weights), tmp_path / 'net.pth')
        generator = load_generator(tmp_path / 'net.pth')
        assert generator.averaged
        assert torch.equal(generator.state_dict['tail.weight'], average.tail.weight)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda s: s.pop('up.0.bias'), 'valid MultiScaleDBLRNet: up.0.bias is missing'),
            (lambda s: s.pop('body.0.conv1.weight'), 'body.0.conv1.weight is missing'),
            (lambda s: s.pop('head.weight'), 'head.weight is missing'),
            (lambda s: s.pop('encoders.0.1.conv1.weight'), r'encoders.0.1.conv1.weight is missing'),
            (lambda s: s.update(extra=torch.zeros(1)), 'extra is unknown'),
            (lambda s: s.update({'norm.1.x': torch.zeros(1)}), 'norm.1.x is unknown'),
            (
                lambda s: s.update({'down.1.weight': torch.zeros(9, 6, 2, 2)}),
                r'down.1.bias has shape \(7,\), expected \(9,\)|'
                r'has shape \(7, 7, 3, 3\), expected \(9, 9, 3, 3\)',
            ),
            (
                lambda s: s.update({'up.1.weight': torch.zeros(6, 7, 2, 2)}),
                r'up.1.weight has shape \(6, 7, 2, 2\), expected \(7, 6, 2, 2\)',
            ),
            (
                lambda s: s.update({'head.weight': torch.zeros(5, 2, 3, 3, 3)}),
                r'2 channel\(s\) and 3 frames do not fit MultiScaleDBLRNet',
            ),
            (lambda s: s.update({'head.weight': torch.zeros(5)}), 'expected 5 axes'),
            (
                lambda s: s.update(alignment=torch.ones(1)),
                'trained with another version of align_frames',
            ),
            (
                lambda s: s.update(alignment=torch.tensor(PATH)),
                r'1 channel\(s\) and -1 frames do not fit MultiScaleDBLRNet',
            ),
            (
                lambda s: s.update({'down.9.weight': torch.zeros(1)}),
                'some of the 10 scales are',
            ),
            (
                lambda s: s.update({'body.9.x': torch.zeros(1)}),
                'some of the 10 blocks of body are',
            ),
            (
                lambda s: s.update({'tail.bias': torch.tensor([3])}),
                'dtype torch.int64, expected floating point',
            ),
            (
                lambda s: s['tail.bias'].fill_(torch.nan),
                'tail.bias has NaN or infinite values',
            ),
        ],
    )
    def test_not_a_whole_network(self, tmp_path, change, message):
        state_dict = trained(**VARIANTS[2]).state_dict()
        change(state_dict)
        torch.save(state_dict, tmp_path / 'net.pth')
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / 'net.pth')


class TestDeblurrer:
    @pytest.mark.parametrize('size', [(1, 1), (3, 2), (9, 40), (61, 51)])
    @pytest.mark.parametrize('tile', [None, 1, 16])
    def test_any_size(self, real_clip, size, tile):
        net = trained()
        height, width = size
        frames = real_clip['blurry'][:6, :, :height, :width]
        clip = [np.uint8(f.permute(1, 2, 0).numpy() * 255 + 0.5) for f in frames]
        restored = list(Deblurrer.from_generator(generator_of(net), tile=tile)(clip))
        with torch.inference_mode():
            expected = net(frames[None, :5])[0].clamp(0, 1).mul(255).round()
        assert len(restored) == 6
        assert np.abs(restored[2] - expected.permute(1, 2, 0).numpy()).max() <= 1

    def test_one_frame(self):
        net = trained(**VARIANTS[1])
        (restored,) = Deblurrer.from_generator(generator_of(net))([np.zeros((5, 7, 3), np.uint8)])
        assert restored.shape == (5, 7, 3)

    @pytest.mark.parametrize(
        ('size', 'rows'), [((720, 1280), 240), ((4320, 7680), 48), ((36, 64), 36)]
    )
    def test_on_a_cpu_a_strip_fits_the_cache(self, size, rows):
        deblurrer = Deblurrer(strip_network(MultiScaleDBLRNet()))
        windows = torch.empty(1, 5, 3, *size, dtype=torch.uint8, device='meta')
        assert deblurrer._choose_tile(windows) == rows

    def test_int8_is_refused(self):
        with pytest.raises(UserError, match='int8 is not supported by MultiScaleDBLRNet'):
            Deblurrer.from_generator(generator_of(trained()), dtype=torch.int8)

    @pytest.mark.slow
    def test_strips_can_be_compiled(self, real_clip):
        """Without the C++ compiler, which takes long."""
        network = strip_network(trained(channels=(4, 8), num_blocks=(0, 0, 0)))
        windows = real_clip['blurry'][None, :5, :, :24, :32]
        with torch.inference_mode():
            expected = network(windows, 8)
            network.step = torch.compile(network.step, dynamic=False, backend='aot_eager')
            torch.testing.assert_close(network(windows, 8), expected, rtol=0, atol=1e-6)


class TestOnnx:
    @pytest.fixture
    def exported(self, tmp_path, call_tool):
        pytest.importorskip('onnx')
        pytest.importorskip('onnxruntime')

        def export(net):
            torch.save(net.state_dict(), tmp_path / 'net.pth')
            result = call_tool('export_onnx', tmp_path / 'net.pth', tmp_path / 'net.onnx')
            assert result.code == 0, result.err
            return OnnxNetwork(tmp_path / 'net.onnx', torch.device('cpu'))

        return export

    @pytest.mark.parametrize('arguments', [VARIANTS[0], VARIANTS[2], VARIANTS[5]], ids=str)
    def test_equals_torch_in_any_tiles(self, exported, real_clip, arguments):
        net = trained(**arguments)
        net.tail.weight.data *= 0.1
        network = exported(net)
        assert (network.num_frames, network.halo, network.multiple) == (
            net.num_frames, net.halo, net.multiple,
        )  # fmt: skip
        for size in ((144, 251), (1, 1), (7, 5), (33, 120)):
            windows = windows_of(real_clip, net, *size)
            with torch.inference_mode():
                expected = net(windows)
            for tile in (None, 16, 50, 1000):
                torch.testing.assert_close(network(windows, tile), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize('arguments', VARIANTS[6:], ids=str)
    def test_whole_frames_are_aligned(self, exported, real_clip, arguments):
        net = trained(**arguments)
        net.tail.weight.data *= 0.1
        network = exported(net)
        assert network.halo is network.default_tile is None
        for size in ((144, 251), (1, 1), (33, 120)):
            windows = windows_of(real_clip, net, *size)
            with torch.inference_mode():
                expected = net(windows)
            torch.testing.assert_close(network(windows), expected, rtol=0, atol=1e-4)

    def test_whole_frames_only(self, exported, tmp_path, monkeypatch):
        net = trained(**VARIANTS[6])
        net.tail.weight.data *= 0.1
        exported(net)
        with pytest.raises(UserError, match='takes only whole frames; omit the tile option'):
            Deblurrer.from_checkpoint(tmp_path / 'net.onnx', device='cpu', tile=64)
        deblurrer = Deblurrer.from_checkpoint(tmp_path / 'net.onnx', device='cpu')
        runs = []

        def no_memory(windows):
            runs.append(windows)
            raise MemoryError

        monkeypatch.setattr(deblurrer.network, '_run', no_memory)
        with pytest.raises(MemoryError):
            list(deblurrer([np.zeros((40, 50, 3), np.uint8)]))
        assert len(runs) == 1  # smaller tiles would not help

    def test_deblurrer_runs_it(self, exported, tmp_path, real_clip):
        net = trained(**VARIANTS[2])
        frames = real_clip['blurry'][:4, :, :50, :70]
        clip = [np.uint8(f.permute(1, 2, 0).numpy() * 255 + 0.5) for f in frames]
        exported(net)
        restored = list(Deblurrer.from_checkpoint(tmp_path / 'net.onnx', device='cpu')(clip))
        expected = list(Deblurrer.from_generator(generator_of(net))(clip))
        for a, b in zip(restored, expected, strict=True):
            assert np.abs(np.int16(a) - b).max() <= 1
