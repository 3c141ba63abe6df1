"""Skipped steps in float32 and in mixed precision."""

import copy
import math

import pytest
import torch
from mmagic.registry import OPTIM_WRAPPERS
from torch import nn

from dblrgan_mm.engine import GuardedAmpOptimWrapper, GuardedOptimWrapper


@pytest.fixture
def net() -> nn.Module:
    return nn.Linear(4, 1)


def wrap(net: nn.Module, kind: type = GuardedOptimWrapper, **kwargs):
    return kind(optimizer=torch.optim.Adam(net.parameters(), lr=0.1), **kwargs)


def iterate(net: nn.Module, wrapper, factor: float = 1.0) -> str | None:
    with wrapper.optim_context(net):
        loss = net(torch.ones(2, 4)).float().square().mean() * factor
    wrapper.update_params(loss)
    return wrapper.outcome


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


class TestFloat32:
    def test_steps_equal_mmengine(self, net):
        other = copy.deepcopy(net)
        theirs = OPTIM_WRAPPERS.build(
            dict(
                type='OptimWrapper',
                optimizer=torch.optim.Adam(other.parameters(), lr=0.1, fused=True),
            )
        )
        ours = wrap(net)
        for _ in range(3):
            assert iterate(net, ours) == 'step'
            with theirs.optim_context(other):
                theirs.update_params(other(torch.ones(2, 4)).square().mean())
        assert torch.equal(weights(net), weights(other))

    @pytest.mark.parametrize('factor', [math.nan, math.inf, 1e39])
    def test_skips(self, net, factor):
        wrapper = wrap(net)
        iterate(net, wrapper)
        before, state = weights(net), copy.deepcopy(wrapper.optimizer.state_dict())
        assert [iterate(net, wrapper, factor) for _ in range(2)] == ['non-finite'] * 2
        assert torch.equal(weights(net), before)
        assert wrapper.optimizer.state_dict()['state'][0]['step'] == state['state'][0]['step']
        assert (wrapper.skipped['non-finite'], wrapper.in_a_row) == (2, 2)
        assert iterate(net, wrapper) == 'step'
        assert not torch.equal(weights(net), before)
        assert (wrapper.skipped['non-finite'], wrapper.in_a_row) == (2, 0)

    @pytest.mark.parametrize('choice', [dict(fused=False), dict(foreach=True)])
    def test_skips_where_the_config_chose_other_kernels(self, net, choice):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, **choice)
        wrapper = GuardedOptimWrapper(optimizer=optimizer)
        assert not optimizer.param_groups[0]['fused']
        before = weights(net)
        assert iterate(net, wrapper, math.nan) == 'non-finite'
        assert torch.equal(weights(net), before)
        assert iterate(net, wrapper) == 'step'
        assert not torch.equal(weights(net), before)

    def test_skipped_steps_are_counted_without_reading_the_outcome(self, net):
        wrapper = wrap(net)
        for factor in (1, math.nan, math.nan):
            wrapper.update_params(net(torch.ones(2, 4)).mean() * factor)
        assert wrapper.state_dict()['guard'] == {'non-finite': 2, 'overflow': 0, 'in_a_row': 2}

    def test_a_loss_that_overflowed_with_a_finite_gradient(self, net):
        """All processes must notice it; they share only the gradient."""
        wrapper = wrap(net)
        loss = net(torch.ones(2, 4)).mean() + torch.tensor(math.inf)
        wrapper.update_params(loss)
        assert wrapper.outcome == 'non-finite'

    def test_one_bad_part_of_an_accumulated_gradient(self, net):
        wrapper = wrap(net, accumulative_counts=3)
        before = weights(net)
        outcomes = [iterate(net, wrapper, factor) for factor in (1, math.nan, 1, 1, 1, 1)]
        assert outcomes == [None, None, 'non-finite', None, None, 'step']
        assert not torch.equal(weights(net), before)

    def test_clip_grad(self, net):
        wrapper = wrap(net, clip_grad=dict(max_norm=1e-3))
        loss = net(torch.ones(2, 4)).square().mean()
        wrapper.backward(loss)
        wrapper.step()
        norm = nn.utils.clip_grad_norm_(net.parameters(), math.inf)
        assert norm == pytest.approx(1e-3, rel=1e-3)

    def test_counts_are_resumed(self, net):
        wrapper = wrap(net)
        iterate(net, wrapper, math.nan)
        state = copy.deepcopy(wrapper.state_dict())
        other = wrap(copy.deepcopy(net))
        other.load_state_dict(state)
        assert (other.skipped, other.in_a_row) == (wrapper.skipped, 1)


@pytest.mark.parametrize('kernels', [dict(), dict(fused=True), dict(foreach=False)])
def test_resumed_from_a_run_with_another_layout_and_other_kernels(kernels):
    """Fused kernels read weights and moments in memory order, whatever their layout."""
    old = nn.Conv2d(3, 4, 3)
    before = GuardedOptimWrapper(optimizer=torch.optim.Adam(old.parameters(), lr=0.1, **kernels))
    image = torch.rand(1, 3, 8, 8)

    def step(net, wrapper):
        wrapper.update_params(net(image).square().mean())

    step(old, before)
    new = copy.deepcopy(old).to(memory_format=torch.channels_last)
    after = GuardedOptimWrapper(optimizer=torch.optim.Adam(new.parameters(), lr=0.1))
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert after.optimizer.param_groups[0]['fused']
    for _ in range(3):
        step(old, before)
        step(new, after)
        torch.testing.assert_close(old.weight, new.weight, rtol=1e-4, atol=1e-5)


class TestMixedPrecision:
    def test_overflow_without_update_params(self, net):
        wrapper = wrap(net, GuardedAmpOptimWrapper, loss_scale=dict(init_scale=2.0**127))
        with wrapper.optim_context(net):
            loss = net(torch.ones(2, 4)).float().square().mean() * 1e3
        wrapper.backward(loss)
        wrapper.step()
        assert wrapper.outcome == 'overflow'

    def test_bfloat16_trains(self, net):
        wrapper = wrap(net, GuardedAmpOptimWrapper, dtype='bfloat16')
        with wrapper.optim_context(net):
            assert net(torch.ones(2, 4)).dtype == torch.bfloat16
        before = weights(net)
        assert iterate(net, wrapper) == 'step'
        assert not torch.equal(weights(net), before)
        assert iterate(net, wrapper, math.nan) == 'non-finite'

    def test_an_overflow_of_the_scaled_gradient_lowers_the_scale(self, net):
        wrapper = wrap(net, GuardedAmpOptimWrapper, loss_scale=dict(init_scale=2.0**127))
        before = weights(net)
        assert iterate(net, wrapper, 1e3) == 'overflow'
        assert torch.equal(weights(net), before)
        assert wrapper.loss_scaler.get_scale() == 2.0**126
        assert (wrapper.skipped, wrapper.in_a_row) == ({'non-finite': 0, 'overflow': 1}, 0)
        while iterate(net, wrapper, 1e3) == 'overflow':
            pass
        assert wrapper.outcome == 'step'

    def test_non_finite_loss_keeps_the_scale(self, net):
        wrapper = wrap(net, GuardedAmpOptimWrapper, loss_scale=dict(init_scale=1024.0))
        for _ in range(3):
            assert iterate(net, wrapper, math.nan) == 'non-finite'
        assert wrapper.loss_scaler.get_scale() == 1024
        assert wrapper.in_a_row == 3
        assert iterate(net, wrapper) == 'step'

    def test_the_scale_is_resumed(self, net):
        wrapper = wrap(net, GuardedAmpOptimWrapper, loss_scale=dict(init_scale=2.0**127))
        iterate(net, wrapper, 1e3)
        other = wrap(net, GuardedAmpOptimWrapper)
        other.load_state_dict(copy.deepcopy(wrapper.state_dict()))
        assert other.loss_scaler.get_scale() == 2.0**126
        assert other.skipped == wrapper.skipped

    def test_another_dtype(self, net):
        with pytest.raises(ValueError, match="must be 'float16' or 'bfloat16', got 'float64'"):
            wrap(net, GuardedAmpOptimWrapper, dtype='float64')
