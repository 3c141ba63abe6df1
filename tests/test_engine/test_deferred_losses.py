"""Losses and step outcomes that are read late give the same log and the same resume."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dblrgan_mm import launch
from dblrgan_mm.engine import GuardedOptimWrapper, NonFiniteHook
from dblrgan_mm.errors import LaunchError, UserError
from dblrgan_mm.inference.checkpoint import read_content

TINY = [
    'model.generator.mid_channels=4',
    'model.generator.num_blocks=1',
    'train_dataloader.dataset.pipeline.2.gt_patch_size=32',
    'val_dataloader.dataset.indices=[5,15]',
    'train_cfg.val_interval=6',
    'train_cfg.max_iters=14',
    'log_processor.window_size=4',
    'default_hooks.checkpoint.max_keep_ckpts=10',
    *(f'{part}_dataloader.num_workers=0' for part in ('train', 'val')),
    *(f'{part}_dataloader.persistent_workers=False' for part in ('train', 'val')),
]
DEFERRED = [
    'default_hooks.runtime_info.type=DeferredLossesHook',
    'default_hooks.non_finite.interval=10',
]


@pytest.mark.slow
@pytest.mark.parametrize(('log', 'save'), [(4, 5), (3, 14)])
def test_log_and_checkpoints_are_the_same(call_tool, repo, tmp_path, log, save):
    found = []
    intervals = [
        f'default_hooks.logger.interval={log}',
        f'default_hooks.checkpoint.interval={save}',
    ]
    for name, options in dict(usual=[], deferred=DEFERRED).items():
        work = tmp_path / name
        done = call_tool(
            'train', repo / 'configs' / 'dblrnet_sample.py', '--work-dir', work,
            '--cfg-options', *TINY, *intervals, *options,
        )  # fmt: skip
        assert done.code == 0, done.err
        (file,) = work.glob('*/vis_data/scalars.json')
        records = [json.loads(line) for line in file.read_text().splitlines()]
        times = ('time', 'data_time')
        scalars = [{k: v for k, v in record.items() if k not in times} for record in records]
        histories = []
        for checkpoint in sorted(work.glob('iter_*.pth')):
            history = read_content(checkpoint)['message_hub']['log_scalars']['train/loss']
            histories.append((checkpoint.name, history['values'].tolist()))
        found.append((scalars, histories))
    assert found[0] == found[1]
    assert [len(values) for name, values in found[1][1] if name == 'iter_14.pth'] == [14]
    assert launch.newest_checkpoint(str(tmp_path / 'deferred')).endswith('iter_14.pth')


class TestNonFinite:
    @pytest.fixture
    def runner(self, tmp_path) -> SimpleNamespace:
        model = nn.Linear(2, 1)
        wrapper = GuardedOptimWrapper(optimizer=torch.optim.Adam(model.parameters(), lr=0.1))
        return SimpleNamespace(
            model=model, optim_wrapper=wrapper, iter=0, max_iters=100, work_dir=str(tmp_path),
            logger=logging.getLogger('deferred'),
        )  # fmt: skip

    def iterate(self, runner, hook, factor: float = 1.0) -> None:
        hook.before_train_iter(runner, runner.iter)
        runner.optim_wrapper.update_params(runner.model(torch.ones(3, 2)).mean() * factor)
        hook.after_train_iter(runner, runner.iter, None, {})
        runner.iter += 1

    def test_reported_after_the_interval(self, runner, caplog):
        hook = NonFiniteHook(interval=5)
        hook.before_train(runner)
        for i in range(10):
            self.iterate(runner, hook, math.nan if i in (2, 3) else 1.0)
        (line,) = caplog.messages
        assert line == (
            'Up to iteration 5: loss or gradient was not finite or overflowed in 2 of the last 5 '
            'iterations; these steps were skipped (2 not finite so far, 0 in a row)'
        )

    def test_stops(self, runner):
        hook = NonFiniteHook(max_in_a_row=4, interval=5)
        hook.before_train(runner)
        for _ in range(4):
            self.iterate(runner, hook, math.nan)
        with pytest.raises(UserError, match='not finite 5 times in a row'):
            self.iterate(runner, hook, math.nan)

    def test_batch_statistics_are_refused(self, runner):
        runner.model = nn.Sequential(nn.BatchNorm2d(2))
        with pytest.raises(LaunchError, match='must be 1 for a model with batch normalisation'):
            NonFiniteHook(interval=5).before_train(runner)
