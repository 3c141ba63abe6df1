import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn

from dblrgan_mm.models import ForeachExponentialMovingAverage


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(6, 2))


def learn(net: nn.Module) -> None:
    """Change the weights and the batch statistics, as an iteration does."""
    net.train()(torch.rand(2, 3, 8, 8))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize('options', [dict(), dict(update_buffers=True), dict(interval=2)])
def test_averages_equal_mmengine(options):
    net = network()
    theirs = ExponentialMovingAverage(net, momentum=0.1, **options)
    ours = ForeachExponentialMovingAverage(net, momentum=0.1, **options)
    for i in range(5):
        learn(net)
        if i == 3:  # resumed
            ours = ForeachExponentialMovingAverage(network(), momentum=0.1, **options)
            ours.load_state_dict(theirs.state_dict())
        theirs.update_parameters(net)
        ours.update_parameters(net)
        for name, value in theirs.state_dict().items():
            assert torch.equal(value, ours.state_dict()[name]), name


def test_load_state_dict_resets_the_step_count():
    net = network()
    average = ForeachExponentialMovingAverage(net, momentum=0.1)
    untouched = copy.deepcopy(average.state_dict())
    learn(net)
    average.update_parameters(net)
    average.load_state_dict(untouched)
    learn(net)
    average.update_parameters(net)  # the first update: a copy
    for p, q in zip(net.parameters(), average.module.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize('update_buffers', [False, True])
def test_average_can_be_moved_to_another_dtype(update_buffers):
    """For instance to a GPU, where its tensors are new objects."""
    net = network()
    average = ForeachExponentialMovingAverage(net, momentum=0.1, update_buffers=update_buffers)
    net.double(), average.double()
    before = average.module[1].running_mean
    for i in range(2):
        net.train()(torch.rand(2, 3, 8, 8, dtype=torch.float64))
        average.update_parameters(net)
        if i == 0:  # the first update is a copy
            for name, value in net.state_dict().items():
                assert torch.equal(average.module.state_dict()[name], value), name
    after = average.module[1].running_mean
    assert after.dtype == torch.float64
    assert not torch.equal(after, torch.zeros_like(before))
