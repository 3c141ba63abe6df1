"""Training checkpoints: written completely, failures reported, architecture checked."""

import errno
import pickletools
import zipfile
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmagic.registry import MODELS
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer
from mmengine.optim import MultiStepLR

from dblrgan_mm import models  # noqa: F401  (registers types)
from dblrgan_mm.engine import CheckpointMatchHook, WholeCheckpointHook
from dblrgan_mm.engine import checkpoint_hooks as module
from dblrgan_mm.engine.checkpoint_hooks import WholeFileBackend
from dblrgan_mm.errors import CheckpointMismatchError

DBLRNET = dict(
    type='BaseEditModel',
    generator=dict(type='DBLRNet', mid_channels=8, num_blocks=2),
    pixel_loss=dict(type='ContentLoss'),
)
DISCRIMINATOR = dict(
    type='FrameSequenceDiscriminator', num_frames=5, conv_channels=((4,), (8,)), fc_channels=8
)
DBLRGAN = {
    **DBLRNET,
    'type': 'DBLRGAN',
    'discriminator': DISCRIMINATOR,
    'gan_loss': dict(type='AdversarialLoss'),
    'ema': dict(momentum=0.01),
}


def build(config: dict, **changes: dict) -> torch.nn.Module:
    """Build the model with changed arguments of its parts, e.g. generator=dict(...)."""
    config = deepcopy(config)
    for part, arguments in changes.items():
        config[part].update(arguments)
    return MODELS.build(config)


def check(model, checkpoint, resume=False) -> None:
    runner = SimpleNamespace(model=model, _resume=resume)
    CheckpointMatchHook().after_load_checkpoint(runner, checkpoint)


class TestCheckpointMatchHook:
    def refusal(self, model, stored) -> str:
        with pytest.raises(CheckpointMismatchError) as caught:
            check(model, dict(meta={}, state_dict=stored.state_dict()))
        message = str(caught.value)
        assert message.startswith('the checkpoint belongs to another architecture than the config:')
        assert 'Use the config that it was trained with, or correct ' in message
        return message

    @pytest.mark.parametrize('config', [DBLRNET, DBLRGAN], ids=['DBLRNet', 'DBLRGAN'])
    def test_own_checkpoint(self, config):
        check(build(config), dict(meta={}, state_dict=build(config).state_dict()))

    def test_dblrgan_starts_from_dblrnet(self):
        check(build(DBLRGAN), dict(meta={}, state_dict=build(DBLRNET).state_dict()))

    def test_dblrgan_does_not_resume_a_dblrnet(self):
        stored = dict(meta={}, state_dict=build(DBLRNET).state_dict())
        with pytest.raises(CheckpointMismatchError, match=r'discriminator\..* is missing from the'):
            check(build(DBLRGAN), stored, resume=True)

    def test_generator_of_dblrgan_without_its_discriminator(self):
        check(build(DBLRNET), dict(meta={}, state_dict=build(DBLRGAN).state_dict()))

    def test_bare_state_dict(self):
        check(build(DBLRNET), build(DBLRNET).state_dict())

    def test_other_width(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(mid_channels=4)))
        assert (
            'generator.head.0.weight has shape (1, 1, 3, 3, 3) in the checkpoint, (2, 1, 3, 3, 3) '
            'in the model'
        ) in message
        assert 'more)' in message

    def test_checkpoint_with_fewer_blocks(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(num_blocks=1)))
        assert 'generator.body.1.conv1.weight is missing from the checkpoint' in message

    def test_checkpoint_with_more_blocks(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(num_blocks=3)))
        assert 'generator.body.2.conv1.weight is not in the model' in message

    def test_checkpoint_without_generator(self):
        with pytest.raises(CheckpointMismatchError, match=r'generator\.head\.0\.weight is missing'):
            check(build(DBLRNET), dict(state_dict={'backbone.weight': torch.zeros(1)}))

    def test_other_discriminator(self):
        message = self.refusal(build(DBLRGAN), build(DBLRGAN, discriminator=dict(fc_channels=16)))
        assert (
            'discriminator.classifier.0.weight has shape (16, 8) in the checkpoint, (8, 8) in the '
            'model'
        ) in message

    def test_incomplete_discriminator(self):
        stored = build(DBLRGAN).state_dict()
        del stored['discriminator.classifier.2.bias']
        with pytest.raises(CheckpointMismatchError, match=r'classifier\.2\.bias is missing from'):
            check(build(DBLRGAN), dict(state_dict=stored))

    @pytest.mark.parametrize('whole', [True, False], ids=['model', 'parts'])
    def test_wrapped_for_several_processes(self, whole):
        stored = build(DBLRGAN).state_dict()
        other = build(DBLRGAN, generator=dict(num_blocks=3)).state_dict()
        model = build(DBLRGAN)
        if whole:
            model = torch.nn.DataParallel(model)
        else:
            model.generator = torch.nn.DataParallel(model.generator)
            model.discriminator = torch.nn.DataParallel(model.discriminator)
        check(model, dict(state_dict=stored))
        with pytest.raises(CheckpointMismatchError, match=r'body\.2\.conv1\.weight is not in the'):
            check(model, dict(state_dict=other))


class TestWholeFiles:
    """Files after a kill, a full disk or a disk error."""

    def test_a_full_disk_leaves_the_file_as_it_was(self, tmp_path, monkeypatch):
        file = tmp_path / 'iter_2.pth'
        backend = get_file_backend(str(file), backend_args=dict(backend='whole'))
        backend.put(b'whole', file)

        def write(path, content) -> None:
            path.open('wb').write(content[:3])
            raise OSError(errno.ENOSPC, 'No space left on device')

        monkeypatch.setattr(Path, 'write_bytes', write)
        with pytest.raises(OSError, match='No space left'):
            backend.put(b'other content', file)
        assert file.read_bytes() == b'whole'
        assert list(tmp_path.iterdir()) == [file]

    def test_a_name_appears_with_the_whole_file(self, tmp_path, monkeypatch):
        """Checked at the moment of renaming."""
        seen = []
        replace = Path.replace

        def look(part, final) -> Path:
            seen.append((final.exists(), part.read_bytes()))
            return replace(part, final)

        monkeypatch.setattr(Path, 'replace', look)
        WholeFileBackend().put(b'content', tmp_path / 'a' / 'iter_2.pth')
        assert seen == [(False, b'content')]


class TestContent:
    """Plain values only: any torch loads them with ``weights_only=True`` and no allow-list."""

    RUNNER = SimpleNamespace(cfg={}, max_iters=10, _resume=True)

    def checkpoint(self, **content) -> dict:
        hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
        return dict(meta={}, state_dict={}, message_hub=hub, param_schedulers=[], **content)

    def stored(self, checkpoint: dict, path: Path, hook: WholeCheckpointHook | None = None) -> dict:
        """Write a checkpoint, check the types in the file and return its loaded content."""
        hook = hook or WholeCheckpointHook()
        hook.before_save_checkpoint(self.RUNNER, checkpoint)
        torch.save(checkpoint, path)
        with zipfile.ZipFile(path) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith('data.pkl'))
            opcodes = list(pickletools.genops(archive.read(name)))
        asked = {argument for opcode, argument, _ in opcodes if opcode.name == 'GLOBAL'}
        assert asked <= {
            'collections OrderedDict', 'torch._utils _rebuild_tensor_v2',
            'torch FloatStorage', 'torch DoubleStorage', 'torch LongStorage',
        }  # fmt: skip
        return torch.load(path, weights_only=True)

    def test_milestones_of_a_schedule(self, tmp_path):
        def build():
            optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
            return MultiStepLR(optimizer, milestones=[3, 7], gamma=0.5, by_epoch=False)

        one, other = build(), build()
        for _ in range(2):
            one.step()
        checkpoint = self.checkpoint()
        checkpoint['param_schedulers'] = [one.state_dict()]
        other.load_state_dict(self.stored(checkpoint, tmp_path / 'a.pth')['param_schedulers'][0])
        rates = []
        for scheduler in (one, other):
            for _ in range(8):
                scheduler.step()
                rates.append(scheduler.get_last_value()[0])
        assert rates[:8] == rates[8:]
        assert rates[0] > rates[4]

    def test_history_of_the_log(self, tmp_path):
        history = HistoryBuffer()
        for value in range(1500):
            history.update(value, 2)
        checkpoint = self.checkpoint()
        checkpoint['message_hub']['log_scalars']['train/loss'] = history
        checkpoint['message_hub']['runtime_info']['best_score'] = np.float64(26.5)
        stored = self.stored(checkpoint, tmp_path / 'a.pth')
        assert stored['message_hub']['runtime_info']['best_score'] == 26.5
        WholeCheckpointHook().after_load_checkpoint(self.RUNNER, stored)
        found = stored['message_hub']['log_scalars']['train/loss']
        assert found.mean(100) == history.mean(100)
        assert len(found.data[0]) == 1000

    def test_statistics_of_each_process(self, tmp_path, monkeypatch):
        hook = WholeCheckpointHook()
        hook._buffers = {'norm.mean': torch.tensor([[1.0], [3.0]]), 'not saved': torch.ones(2, 1)}
        checkpoint = self.checkpoint()
        checkpoint['state_dict']['norm.mean'] = torch.tensor([1.0])
        stored = self.stored(checkpoint, tmp_path / 'a.pth', hook)
        assert stored['state_dict']['norm.mean'] == 2, 'the mean, as it is validated'
        runner = deepcopy(self.RUNNER)
        cases = [(0, 2, True, 1), (1, 2, True, 3), (1, 3, True, 2), (1, 2, False, 2)]
        for rank, world_size, resume, expected in cases:
            monkeypatch.setattr(module, 'get_rank', lambda rank=rank: rank)
            monkeypatch.setattr(module, 'get_world_size', lambda size=world_size: size)
            runner._resume = resume
            loaded = deepcopy(stored)
            hook.after_load_checkpoint(runner, loaded)
            assert loaded['state_dict']['norm.mean'] == expected
            assert 'not saved' not in loaded['state_dict']
