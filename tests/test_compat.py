import pickle
import subprocess
import sys
from pathlib import Path

import mmagic
import mmcv.ops
import numpy as np
import pytest
import torch
from mmagic.registry import MODELS
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
from torch.nn import functional as F

from dblrgan_mm import compat

LITE = 'mmcv_ops' in compat.apply()


class TestPatches:
    def test_each_applies_only_where_needed(self):
        applied = compat.apply()
        assert ('numpy_bool8' in applied) == (np.lib.NumpyVersion(np.__version__) >= '2.0.0')
        assert ('safe_globals' in applied) == hasattr(torch.serialization, 'add_safe_globals')
        compiled = any(Path(mmcv.__file__).parent.glob('_ext*'))
        assert ('mmcv_ops' in applied) == (not compiled)

    def test_safe_loading_alone_applies_on_mmagics_own_stack(self):
        if torch.__version__.startswith('2.1.') and not LITE:
            assert compat.apply() == ['safe_loading']
        else:
            assert len(compat.apply()) > 1

    @pytest.mark.parametrize('version', ['2.0.1', '10.0.0'])
    def test_numpy_2_with_an_old_torch_is_refused(self, monkeypatch, version):
        monkeypatch.setattr(compat, '_applied', None)
        monkeypatch.setattr(torch, '__version__', '2.2.1+cpu')
        monkeypatch.setattr(np, '__version__', version)
        with pytest.raises(ImportError, match=rf"torch 2.2.1.*NumPy {version}.*'numpy<2'"):
            compat.apply()

    @pytest.mark.slow
    def test_logged_once(self):
        code = (
            'import logging; logging.basicConfig(level=logging.INFO)\n'
            'from dblrgan_mm import compat\n'
            'print(len(compat.apply())); compat.apply()'
        )
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, check=True
        )
        assert done.stderr.count('compat:') == int(done.stdout)

    def test_no_mmcv_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(compat, '_applied', None)
        monkeypatch.setattr(compat.importlib.util, 'find_spec', lambda name: None)
        with pytest.raises(ImportError, match=r'mmcv-lite>=2\.1,<2\.2'):
            compat.apply()


class TestOps:
    def test_deformable_convolution_without_offset_is_a_convolution(self):
        x, weight, bias = torch.rand(2, 4, 9, 8), torch.rand(6, 4, 3, 3), torch.rand(6)
        offset, mask = torch.zeros(2, 2 * 18, 9, 8), torch.ones(2, 2 * 9, 9, 8)
        expected = F.conv2d(x, weight, padding=1)
        args = (1, 1, 1, 1, 2)
        plain = mmcv.ops.deform_conv2d(x, offset, weight, *args)
        torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)
        modulated = mmcv.ops.modulated_deform_conv2d(x, offset, 0.5 * mask, weight, bias, *args)
        expected = 0.5 * expected + bias.view(-1, 1, 1)
        torch.testing.assert_close(modulated, expected, atol=1e-5, rtol=1e-5)

    def test_an_offset_moves_the_window(self):
        """Offsets are (y, x) pairs: one row down and two columns right."""
        x, weight = torch.rand(1, 3, 12, 12), torch.rand(2, 3, 3, 3)
        offset = torch.tensor([1.0, 2.0]).repeat(9).view(1, 18, 1, 1).expand(1, 18, 12, 12)
        moved = mmcv.ops.deform_conv2d(x, offset.contiguous(), weight, 1, 1)
        expected = F.conv2d(x, weight, padding=1)
        torch.testing.assert_close(
            moved[..., 1:9, 1:8], expected[..., 2:10, 3:10], atol=1e-5, rtol=1e-5
        )

    def test_gradients(self):
        inputs = [
            torch.rand(1, 2, 5, 5), 0.3 * torch.rand(1, 18, 5, 5), torch.rand(1, 9, 5, 5),
            torch.rand(2, 2, 3, 3), torch.rand(2),
        ]  # fmt: skip
        inputs = [x.double().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(
            lambda *args: mmcv.ops.modulated_deform_conv2d(*args, 1, 1), inputs
        )

    @pytest.mark.skipif(not LITE, reason='this mmcv has its compiled ops')
    def test_other_ops_fail_when_called_not_when_imported(self):
        from mmcv.ops import nms

        with pytest.raises(NotImplementedError, match=r'mmcv op .nms. is not available'):
            nms(torch.rand(2, 4), torch.rand(2), 0.5)
        with pytest.raises(ValueError, match='no bias'):
            mmcv.ops.deform_conv2d(
                torch.rand(1, 2, 5, 5), torch.zeros(1, 18, 3, 3), torch.rand(2, 2, 3, 3), bias=True
            )


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'add_safe_globals'), reason='this torch has no allow-list'
)
class TestCheckpoints:
    def test_log_history_loads_with_weights_only(self, tmp_path):
        history = HistoryBuffer()
        for value in (1.0, 2, 4.5):
            history.update(value)
        torch.save(dict(a=history, b=HistoryBuffer(), c=np.float32(3)), tmp_path / 'log.pth')
        loaded = torch.load(tmp_path / 'log.pth', weights_only=True)
        assert loaded['a'].mean() == 2.5
        assert loaded['a'].statistics('current') == 4.5
        assert loaded['c'] == 3

    def test_each_entry_of_the_allow_list_has_a_name(self, monkeypatch):
        """In torch 2.4 and 2.5, a pair (object, name) makes every load of the process fail."""
        entries = []
        monkeypatch.setattr(torch.serialization, 'add_safe_globals', entries.extend)
        compat.safe_globals()
        names = {f'{entry.__module__}.{entry.__name__}' for entry in entries}
        assert {'builtins.getattr', 'numpy.core.multiarray.scalar'} <= names

    def test_getattr_cannot_run_code(self, tmp_path):
        class Payload:
            def __reduce__(self):
                return getattr, (HistoryBuffer, '__init__')

        torch.save(Payload(), tmp_path / 'bad.pth')
        with pytest.raises(Exception, match='refused, it may contain code'):
            torch.load(tmp_path / 'bad.pth', weights_only=True)


class TestRestorersOfMMagic:
    """EDVR, BasicVSR++, NAFNet and Restormer build from MMagic's configs and train."""

    @pytest.mark.parametrize(
        ('config', 'shape', 'scale'),
        [
            ('edvr/edvrm_8xb4-600k_reds.py', (1, 5, 3, 16, 16), 4),
            pytest.param(
                *('basicvsr_pp/basicvsr-pp_c64n7_8xb1-600k_reds4.py', (1, 2, 3, 64, 64), 4),
                marks=pytest.mark.slow,
            ),
            ('nafnet/nafnet_c64eb11128mb1db1111_8xb8-lr1e-3-400k_gopro.py', (1, 3, 32, 32), 1),
            ('restormer/restormer_official_gopro.py', (1, 3, 32, 32), 1),
        ],
    )
    def test_forward_and_backward(self, config, shape, scale):
        configs = Path(mmagic.__file__).parent / '.mim' / 'configs'
        generator = Config.fromfile(configs / config).model.generator
        for pretrained in ('init_cfg', 'spynet_pretrained'):  # weights to download
            generator.pop(pretrained, None)
        net = MODELS.build(generator)
        net.init_weights() if hasattr(net, 'init_weights') else None
        out = net(torch.rand(shape))
        assert out.shape[-2:] == (shape[-2] * scale, shape[-1] * scale)
        out.square().mean().backward()
        gradients = [p.grad is not None for p in net.parameters()]
        assert sum(gradients) > 0.9 * len(gradients)
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


class Touch:
    """A payload that creates a file when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


class TestSafeLoading:
    """MMEngine's loaders refuse code for all callers: resume, load_from, Pretrained."""

    @pytest.fixture
    def payload(self, tmp_path) -> Path:
        torch.save(dict(state_dict={}, x=Touch(tmp_path / 'trace')), tmp_path / 'bad.pth')
        return tmp_path / 'bad.pth'

    def test_code_in_a_file_is_refused(self, payload, tmp_path, monkeypatch):
        # load as torch before 2.6 does
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '')
        with pytest.raises(pickle.UnpicklingError):
            _load_checkpoint(str(payload))
        assert not (tmp_path / 'trace').exists()
        # the payload works: a careless unpickler would run this
        function, arguments = Touch(tmp_path / 'trace').__reduce__()
        function(*arguments).close()
        assert (tmp_path / 'trace').exists()

    def test_code_at_an_address_is_refused(self, payload, tmp_path, monkeypatch):
        def download(url, path, progress) -> None:
            Path(path).write_bytes(payload.read_bytes())

        monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
        monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
        with pytest.raises(pickle.UnpicklingError):
            _load_checkpoint('https://example.org/bad.pth?x=1')
        assert (tmp_path / 'hub' / 'checkpoints' / 'bad.pth').is_file()
        assert not (tmp_path / 'trace').exists()

    def test_config_in_a_checkpoint_is_dropped(self, tmp_path):
        """MMEngine's resume would run ``meta['config']`` as a Python file."""
        torch.save(dict(meta=dict(config='raise SystemExit', iter=4)), tmp_path / 'a.pth')
        assert _load_checkpoint(str(tmp_path / 'a.pth'))['meta'] == dict(iter=4)
