"""How the hooks handle NaN and infinite values, and unreadable frames."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from mmagic.structures import DataSample
from torch import nn

from dblrgan_mm.engine import GuardedOptimWrapper, NonFiniteHook, UnreadableFramesHook
from dblrgan_mm.errors import UserError


def batch(*names: str, **metainfo) -> dict:
    return dict(data_samples=[DataSample(metainfo=dict(key=name, **metainfo)) for name in names])


@pytest.fixture
def runner(tmp_path) -> SimpleNamespace:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    wrapper = GuardedOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    return SimpleNamespace(
        model=model,
        optim_wrapper=wrapper,
        iter=0,
        work_dir=str(tmp_path),
        logger=logging.getLogger('faults'),
    )


def iterate(runner, hooks, factor: float = 1.0, data_batch=None) -> None:
    data_batch = data_batch or batch('clip/000001')
    for hook in hooks:
        hook.before_train_iter(runner, runner.iter, data_batch)
    loss = (runner.model(factor * torch.rand(2, 1, 4, 4)) ** 2).mean()
    runner.optim_wrapper.update_params(loss)
    for hook in hooks:
        hook.after_train_iter(runner, runner.iter, data_batch, dict(loss=loss))
    runner.iter += 1


def state(runner) -> dict:
    return {k: v.clone() for k, v in runner.model.state_dict().items() if v.is_floating_point()}


class TestNonFinite:
    def test_weights_and_statistics_stay_as_they_were(self, runner, caplog):
        hook = NonFiniteHook()
        iterate(runner, [hook])
        before = state(runner)
        iterate(runner, [hook], math.nan)
        after = state(runner)
        assert all(torch.equal(after[name], before[name]) for name in before)
        (line,) = caplog.messages
        assert line == (
            'Iteration 2: loss or gradient was not finite; step skipped on all processes (1 so '
            'far, 1 in a row)'
        )
        iterate(runner, [hook])
        changed = state(runner)
        assert not torch.equal(changed['1.running_mean'], before['1.running_mean'])

    def test_stops_after_max_in_a_row_and_names_the_windows(self, runner, tmp_path):
        hook = NonFiniteHook(max_in_a_row=3)
        for factor in (math.nan, math.nan, 1, math.nan, math.nan):
            iterate(runner, [hook], factor)
        with pytest.raises(UserError) as caught:
            iterate(runner, [hook], math.nan, batch('walk/000004', 'walk/000017'))
        file = tmp_path / 'non_finite_iter_6_rank0.json'
        assert str(caught.value).startswith('stopped at iteration 6: ')
        assert '3 times in a row' in str(caught.value)
        assert str(file) in str(caught.value)
        assert json.loads(file.read_text())['windows'] == ['walk/000004', 'walk/000017']

    def test_optimiser_without_a_step_is_not_reported_again(self, runner, caplog):
        hook = NonFiniteHook()
        iterate(runner, [hook], math.nan)
        caplog.clear()
        hook.before_train_iter(runner, 1, None)
        hook.after_train_iter(runner, 1, None)
        assert caplog.messages == []


class TestUnreadableFrames:
    def test_counted_and_reported(self, runner, caplog):
        hook = UnreadableFramesHook()
        hook.before_train_iter(runner, 0, batch('a/1', 'a/2'))
        hook.before_train_iter(runner, 1, batch('a/3', skipped=['clip b: 1.png is damaged']))
        hook.before_train_iter(runner, 2, batch('a/4', skipped=['clip b: 2.png is damaged']))
        hook.after_train(runner)
        assert caplog.messages == [
            'Window skipped, 1 so far: clip b: 1.png is damaged',
            'Window skipped, 2 so far: clip b: 2.png is damaged',
            '2 windows (of all processes) were skipped since this command started, because a frame '
            'could not be read; the log lists them',
        ]

    def test_nothing_is_logged_without_skipped_windows(self, runner, caplog):
        hook = UnreadableFramesHook()
        hook.before_train_iter(runner, 0, batch('a/1'))
        hook.after_train(runner)
        assert caplog.messages == []
