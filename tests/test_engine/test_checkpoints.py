"""Checkpoints of a training: whole, told where they are not, of the right architecture."""

import errno
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmagic.registry import MODELS
from mmengine.fileio import get_file_backend

from dblrgan_mm import models  # noqa: F401  (registers them)
from dblrgan_mm.engine import CheckpointMatchHook
from dblrgan_mm.engine.checkpoints import WholeFileBackend
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
    """The model, with arguments of its parts changed: generator=dict(...)."""
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
        assert message.startswith('the checkpoint is of another architecture than the config: ')
        assert 'Use the config that it was trained with, or correct ' in message
        return message

    @pytest.mark.parametrize('config', [DBLRNET, DBLRGAN], ids=['DBLRNet', 'DBLRGAN'])
    def test_own_checkpoint(self, config):
        check(build(config), dict(meta={}, state_dict=build(config).state_dict()))

    def test_dblrgan_starts_from_dblrnet(self):
        check(build(DBLRGAN), dict(meta={}, state_dict=build(DBLRNET).state_dict()))

    def test_dblrgan_does_not_resume_a_dblrnet(self):
        stored = dict(meta={}, state_dict=build(DBLRNET).state_dict())
        with pytest.raises(CheckpointMismatchError, match=r'discriminator\..* is missing there'):
            check(build(DBLRGAN), stored, resume=True)

    def test_generator_of_dblrgan_without_its_discriminator(self):
        check(build(DBLRNET), dict(meta={}, state_dict=build(DBLRGAN).state_dict()))

    def test_bare_state_dict(self):
        check(build(DBLRNET), build(DBLRNET).state_dict())

    def test_other_width(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(mid_channels=4)))
        assert 'generator.head.0.weight is (1, 1, 3, 3, 3) there, (2, 1, 3, 3, 3) here' in message
        assert 'more)' in message

    def test_fewer_blocks_there(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(num_blocks=1)))
        assert 'generator.body.1.conv1.weight is missing there' in message

    def test_more_blocks_there(self):
        message = self.refusal(build(DBLRNET), build(DBLRNET, generator=dict(num_blocks=3)))
        assert 'generator.body.2.conv1.weight is unknown here' in message

    def test_no_generator_there(self):
        with pytest.raises(CheckpointMismatchError, match=r'generator\.head\.0\.weight is missing'):
            check(build(DBLRNET), dict(state_dict={'backbone.weight': torch.zeros(1)}))

    def test_other_discriminator(self):
        message = self.refusal(build(DBLRGAN), build(DBLRGAN, discriminator=dict(fc_channels=16)))
        assert 'discriminator.classifier.0.weight is (16, 8) there, (8, 8) here' in message

    def test_half_a_discriminator(self):
        stored = build(DBLRGAN).state_dict()
        del stored['discriminator.classifier.2.bias']
        with pytest.raises(CheckpointMismatchError, match=r'classifier\.2\.bias is missing there'):
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
        with pytest.raises(CheckpointMismatchError, match=r'body\.2\.conv1\.weight is unknown'):
            check(model, dict(state_dict=other))


class TestWholeFiles:
    """What a kill, a full disk or a fault of the disk leaves behind."""

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
        """Seen at the moment of the renaming."""
        seen = []
        replace = Path.replace

        def look(part, final) -> Path:
            seen.append((final.exists(), part.read_bytes()))
            return replace(part, final)

        monkeypatch.setattr(Path, 'replace', look)
        WholeFileBackend().put(b'content', tmp_path / 'a' / 'iter_2.pth')
        assert seen == [(False, b'content')]
