import json
import logging
from copy import deepcopy
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmagic.registry import MODELS
from mmagic.structures import DataSample

from dblrgan_mm import models  # noqa: F401  (registers them)
from dblrgan_mm.datasets import VideoClipDataset
from dblrgan_mm.engine import CheckpointMatchHook, ClipVisualizationHook, TrainingCurvesHook
from dblrgan_mm.engine.hooks import CheckpointMismatchError, plot_curves, read_scalars

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

    def test_config_in_a_checkpoint_is_not_run(self):
        """MMEngine's resume runs ``meta['config']`` as a Python file where it is present."""
        meta = dict(config='raise SystemExit', iter=4)
        check(build(DBLRNET), dict(meta=meta, state_dict=build(DBLRNET).state_dict()))
        assert meta == dict(iter=4)

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


class TestClipVisualizationHook:
    @pytest.fixture
    def runner(self):
        drawn = []

        def add_datasample(sample, step):
            drawn.append((sample.metainfo['key'], step))

        return SimpleNamespace(
            iter=400, visualizer=SimpleNamespace(add_datasample=add_datasample), drawn=drawn
        )

    @pytest.fixture
    def batches(self, sample_root) -> list[list[DataSample]]:
        """The outputs of a test, three frames a batch."""
        dataset = VideoClipDataset(data_root=str(sample_root), split='test', test_mode=True)
        samples = []
        for i in range(len(dataset)):
            window = dataset.get_data_info(i)
            metainfo = {key: window[key] for key in ('key', 'middle_of_clip')}
            samples.append(DataSample(metainfo=metainfo))
        return [samples[i : i + 3] for i in range(0, len(samples), 3)]

    def validate(self, hook, runner, batches) -> None:
        hook.before_val_epoch(runner)
        for i, outputs in enumerate(batches):
            hook.after_val_iter(runner, i, outputs=outputs)

    MIDDLES = [('sam2_blocks_carry/000037', 400), ('sam2_blocks_two_hands/000106', 400)]

    def test_the_middle_of_each_clip(self, runner, batches):
        hook = ClipVisualizationHook()
        for _ in range(2):
            self.validate(hook, runner, batches)
        assert runner.drawn == self.MIDDLES * 2

    def test_at_most_max_clips_in_each_validation(self, runner, batches):
        hook = ClipVisualizationHook(max_clips=1)
        for _ in range(2):
            self.validate(hook, runner, batches)
        assert runner.drawn == self.MIDDLES[:1] * 2

    def test_every_clip_in_a_test(self, runner, batches):
        hook = ClipVisualizationHook(max_clips=1)
        del runner.iter  # asked for it in a test, MMEngine builds the training
        for i, outputs in enumerate(batches):
            hook.after_test_iter(runner, i, outputs=outputs)
        assert runner.drawn == [(key, 0) for key, _ in self.MIDDLES]

    def test_data_without_clips(self, runner):
        ClipVisualizationHook().after_test_iter(runner, 0, outputs=[DataSample()])
        assert runner.drawn == []


def write_scalars(work_dir, run: str, records: list[dict], rest: str = '') -> None:
    folder = work_dir / run / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(record) + '\n' for record in records]
    (folder / 'scalars.json').write_text(''.join(lines) + rest)


class TestTrainingCurves:
    def runner(self, work_dir) -> SimpleNamespace:
        return SimpleNamespace(work_dir=str(work_dir), logger=logging.getLogger('curves'))

    def test_a_resumed_run_is_merged(self, tmp_path):
        write_scalars(
            tmp_path,
            '20260101_000000',
            [
                dict(loss_pix=0.5, time=0.1, step=20),
                dict(PSNR=26.5, step=20),
                dict(loss_pix=0.4, time=0.1, step=40),
            ],
        )
        write_scalars(
            tmp_path,
            '20260102_000000',
            [dict(loss_pix=0.3, step=40), dict(loss_pix=0.2, step=60, note='x')],
        )
        curves = read_scalars(tmp_path, skip=('time', 'step'))
        assert curves == dict(loss_pix={20: 0.5, 40: 0.3, 60: 0.2}, PSNR={20: 26.5})

    def test_a_line_cut_off_by_a_crash_is_left_out(self, tmp_path):
        write_scalars(tmp_path, 'killed', [dict(loss=0.5, step=1)], rest='{"loss": 0.4, "st')
        write_scalars(tmp_path, 'resumed', [dict(loss=0.3, step=2)])
        assert read_scalars(tmp_path, skip=('step',)) == dict(loss={1: 0.5, 2: 0.3})

    @pytest.mark.parametrize('moment', ['after_train', 'after_val_epoch'])
    def test_picture(self, tmp_path, moment):
        records = [
            dict(loss_pix=0.5**i, PSNR=25 + i, data_time=0.1, memory=3, iter=i, step=i)
            for i in range(5)
        ]
        write_scalars(tmp_path, 'run', records)
        getattr(TrainingCurvesHook(), moment)(self.runner(tmp_path))
        picture = cv2.imread(str(tmp_path / 'curves.png'))
        one_panel = cv2.imread(str(plot_curves(dict(loss_pix={0: 1.0}), tmp_path / 'one.png')))
        assert picture.shape[0] == one_panel.shape[0]
        assert picture.shape[1] == 2 * one_panel.shape[1], 'loss_pix and PSNR, no times'
        for panel in (picture[:, : picture.shape[1] // 2], picture[:, picture.shape[1] // 2 :]):
            assert (panel < 128).any(), 'something is drawn'

    def test_values_that_are_no_numbers_do_not_stop_a_run(self, tmp_path):
        values = [float('nan'), float('inf'), 1.0, 0.0, -1.0, 1000.0]
        records = [dict(loss=v, lost=float('nan'), step=i) for i, v in enumerate(values)]
        write_scalars(tmp_path, 'run', records)
        TrainingCurvesHook().after_train(self.runner(tmp_path))
        assert cv2.imread(str(tmp_path / 'curves.png')) is not None

    def test_nothing_logged(self, tmp_path):
        TrainingCurvesHook().after_train(self.runner(tmp_path))
        assert list(tmp_path.iterdir()) == []
