"""Settings that changed before a resume; tests/test_tools/test_resume.py trains with them."""

import logging
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from dblrgan_mm.engine.schedules import store_settings, use_changed_settings
from dblrgan_mm.errors import LaunchError


def runner(**optim_wrapper) -> SimpleNamespace:
    """Return what a resume uses of a runner with one network and no schedule."""
    given = dict(type=OptimWrapper, optimizer=dict(type='Adam', lr=1e-3)) | optim_wrapper
    torch.manual_seed(0)
    return SimpleNamespace(
        cfg=dict(optim_wrapper=given),
        max_iters=10,
        param_schedulers=None,
        optim_wrapper=build_optim_wrapper(nn.Linear(2, 2), deepcopy(given)),
        logger=logging.getLogger('test_schedules'),
    )


def saved(before: SimpleNamespace) -> dict:
    checkpoint = dict(meta=dict(iter=4), optimizer=before.optim_wrapper.state_dict())
    store_settings(before, checkpoint)
    return deepcopy(checkpoint)


def test_no_change_leaves_the_checkpoint_as_it_is(caplog):
    checkpoint = saved(runner())
    checkpoint['optimizer']['param_groups'][0]['lr'] = 0.5  # e.g. set by a hook
    expected = deepcopy(checkpoint)
    use_changed_settings(runner(), checkpoint)
    assert checkpoint == expected
    assert caplog.text == ''


def test_a_rate_without_a_schedule(caplog):
    checkpoint = saved(runner())
    use_changed_settings(runner(optimizer=dict(type='Adam', lr=2e-3)), checkpoint)
    assert checkpoint['optimizer']['param_groups'][0]['lr'] == 2e-3
    assert 'optim_wrapper.optimizer.lr: 0.002 (was 0.001)' in caplog.text


def test_longer_run_keeps_settings_changed_by_the_optimiser():
    """Some optimisers change their own settings, e.g. an estimate of the best rate."""
    checkpoint, longer = saved(runner()), runner()
    checkpoint['optimizer']['param_groups'][0]['d'] = 0.5
    longer.optim_wrapper.param_groups[0]['d'] = 1e-6
    longer.max_iters = 20
    use_changed_settings(longer, checkpoint)
    assert checkpoint['optimizer']['param_groups'][0]['d'] == 0.5


def test_other_parameter_groups():
    changed = runner(paramwise_cfg=dict(bias_lr_mult=2.0))
    with pytest.raises(LaunchError, match=r'parameter groups of the config differ .*paramwise_cfg'):
        use_changed_settings(changed, saved(runner()))
