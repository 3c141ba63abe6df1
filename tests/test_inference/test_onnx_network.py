"""ONNX files: export, description, and running in tiles."""

import cv2
import numpy as np
import pytest
import torch
from test_strip_network import strip_network, trained, windows_of

from dblrgan_mm.errors import UserError
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference.networks import onnx_network
from dblrgan_mm.inference.networks.onnx_network import OnnxNetwork

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
CPU = torch.device('cpu')


@pytest.fixture
def exported(tmp_path, call_tool):
    def export(net):
        torch.save(net.state_dict(), tmp_path / 'net.pth')
        result = call_tool('export_onnx', tmp_path / 'net.pth', tmp_path / 'net.onnx')
        assert result.code == 0, result.err
        assert 'differs from torch by' in result.out
        return tmp_path / 'net.onnx'

    return export


# whether a network is residual is inferred from its output, so it must act like either kind
PLAIN = dict(norm=None, num_blocks=1)


def passing_on(**arguments):
    """Return a non-residual network whose output is close to mid-grey."""
    net = trained(mid_channels=8, **arguments)
    net.tail[-1].weight.data *= 0.01
    net.tail[-1].bias.data.fill_(0.5)
    return net


@pytest.mark.parametrize(
    'arguments', [dict(), dict(color='rgb', num_frames=3), PLAIN, dict(num_frames=1)], ids=str
)
@pytest.mark.parametrize('size', [(144, 96), (1, 1), (7, 5), (33, 120)])
def test_equals_torch_in_any_tiles(exported, real_clip, arguments, size):
    net = passing_on(**arguments)
    windows = windows_of(real_clip, net, *size)
    with torch.inference_mode():
        expected = net(windows)
    network = OnnxNetwork(exported(net), CPU)
    assert (network.num_frames, network.halo) == (net.num_frames, net.halo)
    for tile in (None, 16, 50, 1000):
        torch.testing.assert_close(network(windows, tile), expected, rtol=0, atol=1e-5)


def test_residual_network(exported, real_clip):
    net = trained(residual=True, mid_channels=8)
    net.tail[-1].weight.data *= 0.01
    windows = windows_of(real_clip, net, 40, 50)
    with torch.inference_mode():
        expected = net(windows)
    torch.testing.assert_close(
        OnnxNetwork(exported(net), CPU)(windows), expected, rtol=0, atol=1e-5
    )


def test_deblurrer_runs_it(exported, sample_root):
    net = passing_on()
    folder = sample_root / 'train' / 'gopro_walk_a' / 'blur'
    clip = [cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())[:6]]
    path = exported(net)
    restored = list(Deblurrer.from_checkpoint(path)(clip))  # on a GPU if onnxruntime supports it
    expected = list(Deblurrer(strip_network(net))(clip))
    for a, b in zip(restored, expected, strict=True):
        assert np.abs(np.int16(a) - b).max() <= 1


def test_package_weights_keep_their_description(tmp_path, call_tool):
    from dblrgan_mm.inference.deblurrer import DEFAULT

    result = call_tool('export_onnx', DEFAULT, tmp_path / 'net.onnx')
    assert result.code == 0, result.err
    meta = OnnxNetwork(tmp_path / 'net.onnx', CPU).meta
    assert 'DAVIS' in meta['training_data']
    assert list(meta['architecture']['channels']) == [16, 32, 48, 64]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['net.onnx']


def test_memory_that_runs_out_halves_the_tile(exported, monkeypatch, caplog):
    network = OnnxNetwork(exported(passing_on()), CPU)
    run = network._session.run

    class Session:
        def run(self, names, feeds):
            if next(iter(feeds.values())).shape[-1] > 40:
                raise Exception('Failed to allocate memory for requested buffer of size 1')
            return run(names, feeds)

    monkeypatch.setattr(network, '_session', Session())
    clip = [np.zeros((60, 60, 3), np.uint8)] * 5
    assert len(list(Deblurrer(network, tile=48)(clip))) == 5
    assert 'out of memory with 48 rows at once; retrying with 24' in caplog.text


class TestRefused:
    @pytest.mark.parametrize(
        ('content', 'message'),
        [(None, 'no ONNX file'), (b'', 'or damaged'), (b'no network' * 99, 'or damaged')],
    )
    def test_no_onnx(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / 'net.onnx').write_bytes(content)
        with pytest.raises(UserError, match=message):
            Deblurrer.from_checkpoint(tmp_path / 'net.onnx', device='cpu')

    def test_truncated(self, exported):
        path = exported(passing_on())
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(UserError, match='or damaged'):
            OnnxNetwork(path, CPU)

    def test_damaged_weights(self, exported):
        net = passing_on()
        path = exported(net)
        weights = net.tail[2].weight.detach().numpy().tobytes()
        content = path.read_bytes()
        assert content.count(weights) == 1
        path.write_bytes(content.replace(weights, weights[len(weights) // 2 :] * 2))
        with pytest.raises(UserError, match='its output has changed since the export'):
            OnnxNetwork(path, CPU)

    @pytest.mark.parametrize('properties', [{}, {'dblrgan_mm': '{"halo": "35"}'}])
    def test_another_network(self, exported, properties):
        path = exported(passing_on())
        model = onnx.load(str(path))
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, properties)
        onnx.save(model, str(path))
        with pytest.raises(UserError, match=r'was not written by dblrgan-mm export'):
            OnnxNetwork(path, CPU)

    def test_without_onnxruntime(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
        with pytest.raises(UserError, match='need onnxruntime: pip install'):
            onnx_network.import_onnxruntime()

    def test_gpu_that_onnxruntime_cannot_use(self, exported):
        with pytest.raises(UserError, match='this onnxruntime cannot run on mps'):
            OnnxNetwork(exported(passing_on()), torch.device('mps'))

    @pytest.mark.parametrize(
        'arguments', [dict(dtype='bfloat16'), dict(dtype='int8'), dict(compile=True)]
    )
    def test_unsupported_options_are_refused(self, tmp_path, arguments):
        with pytest.raises(UserError, match='runs only in float32 and without compile'):
            Deblurrer.from_checkpoint(tmp_path / 'net.onnx', device='cpu', **arguments)

    @pytest.mark.parametrize(
        ('target', 'message'),
        [
            ('net.pt', 'must end with .onnx'),
            ('no/net.onnx', 'does not exist; create it first'),
            ('there.onnx', 'already exists; use --overwrite to replace it'),
        ],
    )
    def test_target(self, call_tool, tmp_path, target, message):
        (tmp_path / 'there.onnx').write_bytes(b'precious')
        result = call_tool('export_onnx', tmp_path / 'net.pth', tmp_path / target)
        assert result.code == 1
        assert message in result.err
        assert (tmp_path / 'there.onnx').read_bytes() == b'precious'

    def test_file_that_differs_from_torch_is_not_written(self, call_tool, tmp_path, monkeypatch):
        torch.save(passing_on().state_dict(), tmp_path / 'net.pth')
        monkeypatch.setattr(OnnxNetwork, '__call__', lambda self, w, tile=None: w[:, 2] + 1)
        result = call_tool('export_onnx', tmp_path / 'net.pth', tmp_path / 'net.onnx')
        assert result.code == 1
        assert 'onnxruntime differs from torch by' in result.err
        assert sorted(p.name for p in tmp_path.iterdir()) == ['net.pth']
