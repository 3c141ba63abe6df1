"""Reading checkpoints, and refusing bad ones."""

import inspect
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from test_strip_network import trained

from dblrgan_mm import nn
from dblrgan_mm.errors import UserError
from dblrgan_mm.inference import Deblurrer
from dblrgan_mm.inference.architectures import ARCHITECTURES as KINDS
from dblrgan_mm.inference.checkpoint import load_generator
from dblrgan_mm.nn import DBLRNet

ARCHITECTURES = [
    dict(num_frames=5, color='luma', mid_channels=16, num_blocks=3, norm='BN'),
    dict(num_frames=1, color='rgb', mid_channels=8, num_blocks=0, norm=None),
    dict(num_frames=3, color='luma', mid_channels=4, num_blocks=1, norm=None),
    dict(num_frames=7, color='rgb', mid_channels=12, num_blocks=11, norm='BN'),
    dict(num_frames=1, color='luma', mid_channels=8, num_blocks=2, norm='BN'),
    dict(num_frames=5, color='luma', mid_channels=8, num_blocks=1, norm=None, fusion='early'),
]


def acting(residual: bool, **arguments) -> DBLRNet:
    """Return a network that acts like a trained one: almost no change, or output near mid-grey."""
    net = trained(residual=residual, **arguments)
    net.tail[-1].weight.data *= 0.001
    net.tail[-1].bias.data.fill_(0 if residual else 0.5)
    return net


def with_prefix(state_dict, prefix):
    return {f'{prefix}{key}': value for key, value in state_dict.items()}


def saved(tmp_path, content, **options) -> Path:
    torch.save(content, tmp_path / 'net.pth', **options)
    return tmp_path / 'net.pth'


def assert_weights(generator, net):
    expected = net.state_dict()
    assert generator.state_dict.keys() == expected.keys()
    assert all(torch.equal(generator.state_dict[key], expected[key]) for key in expected)


class Payload:
    """A payload that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class TestArchitecture:
    @pytest.mark.parametrize('residual', [False, True])
    @pytest.mark.parametrize('arguments', ARCHITECTURES, ids=str)
    @pytest.mark.parametrize(
        'store',
        [
            lambda s: s,
            lambda s: with_prefix(s, 'module.'),
            lambda s: dict(state_dict=with_prefix(s, 'generator.')),
            lambda s: dict(state_dict=with_prefix(s, 'generator.module.'), meta=dict(iter=3)),
        ],
        ids=['bare', 'DDP', 'training', 'old DDP'],
    )
    def test_is_inferred_from_the_weights(self, tmp_path, arguments, residual, store):
        net = acting(residual, **arguments)
        generator = load_generator(saved(tmp_path, store(net.state_dict())))
        expected = dict(type='DBLRNet', fusion='slow') | arguments | dict(residual=residual)
        assert generator.architecture == expected
        assert_weights(generator, net)
        del expected['type']
        DBLRNet(**expected).load_state_dict(generator.state_dict)

    @pytest.mark.parametrize('kind', KINDS)
    def test_it_names_every_argument(self, tmp_path, kind):
        network = KINDS[kind].generator
        generator = load_generator(saved(tmp_path, network().state_dict()))
        assert generator.architecture.pop('type') == kind
        assert {*generator.architecture} == {*inspect.signature(network).parameters}

    def test_markers_belong_to_one_kind_each(self):
        for kind, known in KINDS.items():
            for other in KINDS:
                has_it = known.marker in getattr(nn, other)().state_dict()
                assert has_it is (other == kind)

    @pytest.mark.parametrize(('config', 'residual'), [('sample', True), ('gopro', False)])
    def test_residual_is_taken_from_a_trainings_config(self, tmp_path, repo, config, residual):
        text = Config.fromfile(repo / 'configs' / f'dblrnet_{config}.py').pretty_text
        net = acting(not residual)  # so the weights alone suggest the opposite
        content = dict(meta=dict(cfg=text), state_dict=with_prefix(net.state_dict(), 'generator.'))
        generator = load_generator(saved(tmp_path, content))
        assert generator.architecture['residual'] is residual

    @pytest.mark.parametrize('text', ['model = dict(', '\0', 'x = 1', '(' * 500, 5])
    def test_config_without_residual(self, tmp_path, text):
        net = acting(True)
        content = dict(meta=dict(cfg=text), state_dict=with_prefix(net.state_dict(), 'generator.'))
        assert load_generator(saved(tmp_path, content)).architecture['residual'] is True

    def test_config_is_not_run(self, tmp_path):
        text = f'import os\nos.system("touch {tmp_path}/ran")\nmodel = dict(generator=dict())'
        net = acting(True)
        content = dict(meta=dict(cfg=text), state_dict=with_prefix(net.state_dict(), 'generator.'))
        load_generator(saved(tmp_path, content))
        assert not (tmp_path / 'ran').exists()


class TestAverage:
    @pytest.mark.parametrize('steps', [0, 7])
    def test_average_is_used_once_updated(self, tmp_path, steps):
        net, average = acting(True), acting(True)
        content = with_prefix(net.state_dict(), 'generator.')
        content |= with_prefix(average.state_dict(), 'generator_ema.module.')
        content['generator_ema.steps'] = torch.tensor(steps)
        generator = load_generator(saved(tmp_path, dict(state_dict=content)))
        assert generator.averaged is bool(steps)
        assert_weights(generator, average if steps else net)

    def test_average_of_mmengines_hook(self, tmp_path):
        weights = with_prefix(acting(True).state_dict(), 'generator.')
        content = dict(state_dict=weights, ema_state_dict=dict(steps=torch.tensor(3)))
        assert load_generator(saved(tmp_path, content)).averaged is True


@pytest.fixture(scope='module')
def training(tmp_path_factory, call_tool):
    """The checkpoint of a real training of two iterations."""
    work_dir = tmp_path_factory.mktemp('training')
    result = call_tool(
        'train',
        'configs/dblrgan_sample.py',
        '--work-dir',
        work_dir,
        '--cfg-options',
        'train_cfg.max_iters=2',
        'train_cfg.val_interval=10',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
    )
    assert result.code == 0, result.err[-2000:]
    return next(work_dir.glob('iter_*.pth'))


@pytest.mark.slow
@pytest.mark.parametrize('legacy', [False, True])
def test_a_real_training(tmp_path, training, legacy):
    content = torch.load(training, weights_only=True)
    path = saved(tmp_path, content, _use_new_zipfile_serialization=not legacy)
    generator = load_generator(path)
    assert generator.averaged
    assert generator.architecture == dict(
        type='DBLRNet',
        num_frames=5,
        color='luma',
        mid_channels=16,
        num_blocks=6,
        norm=None,
        residual=True,
        fusion='slow',
    )
    stored = content['state_dict']
    for key, value in generator.state_dict.items():
        assert torch.equal(value, stored[f'generator_ema.module.{key}'])


class TestPublished:
    @pytest.fixture
    def published(self, tmp_path, call_tool):
        net = acting(False)
        result = call_tool(
            'publish_model',
            saved(tmp_path, net.state_dict()),
            tmp_path / 'fine.pth',
            '--trained-on',
            'GoPro',
            '--metric',
            '30 dB',
        )
        assert result.code == 0, result.err
        (path,) = tmp_path.glob('fine-????????.pth')
        assert f'{path}: 0.' in result.out
        assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, 'net.pth']
        return path, net

    def test_description_is_stored(self, published):
        path, net = published
        generator = load_generator(path)
        assert_weights(generator, net)
        assert generator.meta['training_data'] == 'GoPro'
        assert generator.meta['metric'] == '30 dB'
        assert generator.meta['architecture']['residual'] is False
        assert Deblurrer.from_checkpoint(path, device='cpu').meta == generator.meta

    def test_description_takes_precedence_over_inference(self, tmp_path, published):
        content = torch.load(published[0], weights_only=True)
        content['meta']['architecture']['residual'] = True
        assert load_generator(saved(tmp_path, content)).architecture['residual'] is True

    def test_initialises_a_generator_in_a_config(self, published):
        from dblrgan_mm import models  # here, because it takes ten seconds to import

        path, net = published
        init = dict(type='Pretrained', checkpoint=str(path), prefix='generator.')
        other = models.DBLRNet(mid_channels=16, num_blocks=3, init_cfg=init)
        other.init_weights()
        for key, value in other.state_dict().items():
            assert torch.equal(value, net.state_dict()[key])

    def test_damage_is_detected(self, published):
        path, _ = published
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(UserError, match='is damaged: its checksums do not match'):
            load_generator(path)

    def test_name_with_another_checksum_is_refused(self, tmp_path, published):
        path, _ = published
        content = torch.load(path, weights_only=True)
        content['meta']['metric'] = '40 dB'
        torch.save(content, path)
        with pytest.raises(UserError, match='is damaged: its SHA-256 begins with'):
            load_generator(path)

    def test_date_in_a_name_is_not_a_checksum(self, tmp_path):
        net = acting(True)
        torch.save(net.state_dict(), tmp_path / 'net-20240131.pth')
        assert_weights(load_generator(tmp_path / 'net-20240131.pth'), net)

    @pytest.mark.parametrize(
        ('target', 'message'),
        [('fine.txt', 'must end with .pth'), ('no/fine.pth', 'does not exist; create it first')],
    )
    def test_target(self, tmp_path, call_tool, target, message):
        words = ('--trained-on', 'x', '--metric', 'y')
        result = call_tool('publish_model', tmp_path / 'net.pth', tmp_path / target, *words)
        assert result.code == 1
        assert message in result.err


class TestRefused:
    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (None, 'no checkpoint'),
            (b'', 'not a checkpoint, or damaged'),
            (b'words, words\n' * 99, 'not a checkpoint, or damaged'),
            (pickle.dumps([1, 2]), 'not a checkpoint, or damaged|contains a list'),
        ],
    )
    def test_no_checkpoint(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / 'net.pth').write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_generator(tmp_path / 'net.pth')

    @pytest.mark.parametrize('place', [0.3, 0.5, 0.7])
    def test_damaged_weights(self, tmp_path, place):
        path = saved(tmp_path, acting(True).state_dict())
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 64  # in some weight; all values stay finite
        path.write_bytes(content)
        with pytest.raises(UserError, match='its checksums do not match; copy it again'):
            load_generator(path)

    def test_folder(self, tmp_path):
        with pytest.raises(UserError, match='is a folder; give the path of the checkpoint file'):
            load_generator(tmp_path)

    @pytest.mark.parametrize('legacy', [False, True])
    @pytest.mark.parametrize('part', [0.01, 0.3, 0.9, 0.999])
    def test_truncated(self, tmp_path, legacy, part):
        path = saved(tmp_path, acting(True).state_dict(), _use_new_zipfile_serialization=not legacy)
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        with pytest.raises(UserError, match=r'net\.pth: .*damaged'):
            load_generator(path)

    @pytest.mark.parametrize('legacy', [False, True])
    @pytest.mark.parametrize('history', [False, True])
    def test_code_is_not_run(self, tmp_path, legacy, history):
        content = dict(state_dict=with_prefix(acting(True).state_dict(), 'generator.'))
        if history:
            content['message_hub'] = HistoryBuffer([1.0, 2.0], [1, 1])
        content['surprise'] = Payload(tmp_path / 'ran')
        path = saved(tmp_path, content, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match='refused because it would run code'):
            load_generator(path)
        assert not (tmp_path / 'ran').exists()
        pickle.loads(pickle.dumps(Payload(tmp_path / 'ran')))  # noqa: S301  it works
        assert (tmp_path / 'ran').exists()

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (torch.zeros(3), 'contains a Tensor, not the weights'),
            (dict(state_dict=torch.zeros(3)), 'not a dictionary of weights'),
            (
                {'conv_first.weight': torch.zeros(3)},
                r'contains no DBLRNet or MultiScaleDBLRNet \(no head.0.weight or down.0.weight',
            ),
            ({'head.0.weight': torch.zeros(3)}, r'head.2.weight is missing|expected 5 axes'),
            ({'head.0.weight': 'text'}, 'contains no DBLRNet'),
            ({3: 4}, 'contains no DBLRNet'),
        ],
    )
    def test_another_network(self, tmp_path, content, message):
        with pytest.raises(UserError, match=message):
            load_generator(saved(tmp_path, content))

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (lambda s: s.pop('body.1.conv2.weight'), 'body.1.conv2.weight is missing'),
            (lambda s: s.pop('tail.4.bias'), 'tail.4.bias is missing'),
            (lambda s: s.update({'tail.0.weight': torch.zeros(2, 2, 3, 3)}), 'tail.0.weight has'),
            (lambda s: s.update(extra=torch.zeros(1)), 'extra is unknown'),
            (
                lambda s: s.update({'tail.4.bias': torch.tensor([3])}),
                'dtype torch.int64, expected floating point',
            ),
            (
                lambda s: s['tail.4.bias'].fill_(float('nan')),
                'tail.4.bias has NaN or infinite values',
            ),
            (lambda s: s.update({'body.99999.conv1.weight': torch.zeros(1)}), 'blocks are missing'),
        ],
    )
    def test_not_a_whole_network(self, tmp_path, change, message):
        state_dict = acting(True).state_dict()
        change(state_dict)
        with pytest.raises(UserError, match=message):
            load_generator(saved(tmp_path, state_dict))

    @settings(max_examples=150, deadline=None)
    @given(
        position=st.floats(0, 1, exclude_max=True),
        junk=st.binary(max_size=40),
        removed=st.integers(0, 40),
    )
    def test_damage_is_reported_or_harmless(self, tmp_path_factory, position, junk, removed):
        folder = tmp_path_factory.mktemp('damaged')
        path = saved(folder, acting(True, mid_channels=4, num_blocks=0).state_dict())
        content = path.read_bytes()
        i = int(position * len(content))
        path.write_bytes(content[:i] + junk + content[i + removed :])
        try:
            load_generator(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017  both outcomes are correct
