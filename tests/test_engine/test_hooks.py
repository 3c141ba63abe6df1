import json
import logging
from types import SimpleNamespace

import cv2
import pytest
import torch
from mmagic.structures import DataSample
from torch import nn

from dblrgan_mm.datasets import VideoClipDataset
from dblrgan_mm.engine import (
    ClipVisualizationHook,
    CompileGeneratorHook,
    TrainingCurvesHook,
)
from dblrgan_mm.engine.hooks import plot_curves, read_scalars

DRAWS_CURVES = True  # conftest.py


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
        """The outputs of a test, three frames per batch."""
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
        del runner.iter  # reading it in a test would make MMEngine build the training
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

    def test_non_finite_values_can_be_plotted(self, tmp_path):
        values = [float('nan'), float('inf'), 1.0, 0.0, -1.0, 1000.0]
        records = [dict(loss=v, lost=float('nan'), step=i) for i, v in enumerate(values)]
        write_scalars(tmp_path, 'run', records)
        TrainingCurvesHook().after_train(self.runner(tmp_path))
        assert cv2.imread(str(tmp_path / 'curves.png')) is not None

    def test_nothing_logged(self, tmp_path):
        TrainingCurvesHook().after_train(self.runner(tmp_path))
        assert list(tmp_path.iterdir()) == []


class TestCompileGenerator:
    @pytest.fixture
    def runner(self):
        model = nn.Module()
        model.generator = nn.Linear(2, 2)
        return SimpleNamespace(model=model, logger=logging.getLogger('compile'))

    def backend(self, calls: list):
        def compile_(module, inputs):
            calls.append(module)
            return module.forward

        return compile_

    def test_validation_runs_uncompiled(self, runner):
        calls = []
        hook = CompileGeneratorHook(backend=self.backend(calls))
        hook.before_train(runner)
        hook.before_val_epoch(runner)
        runner.model.generator(torch.rand(1, 2))
        assert calls == []
        hook.after_val_epoch(runner)
        runner.model.generator(torch.rand(1, 2))
        assert len(calls) == 1

    def test_failed_compilation_runs_uncompiled(self, runner, caplog):
        def broken(module, inputs):
            raise RuntimeError('no compiler\nand much more')

        hook = CompileGeneratorHook(backend=broken)
        hook.before_train(runner)
        x = torch.rand(1, 2)
        generator = runner.model.generator
        expected = nn.functional.linear(x, generator.weight, generator.bias)
        for _ in range(2):
            assert torch.equal(generator(x), expected)
        hook.before_val_epoch(runner)
        hook.after_val_epoch(runner)
        assert torch.equal(generator(x), expected)
        (message,) = (record.message for record in caplog.records if record.name == 'compile')
        assert message.startswith('The generator cannot be compiled and runs uncompiled: ')
        assert 'no compiler' in message

    def test_input_errors_are_raised(self, runner):
        hook = CompileGeneratorHook(backend='eager')
        hook.before_train(runner)
        with pytest.raises(RuntimeError, match='shapes'):
            runner.model.generator(torch.rand(1, 3))
