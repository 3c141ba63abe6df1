"""Decide the learning rates, optimiser settings and schedules of a resumed run.

MMEngine stores the learning rates, the settings of the optimisers and those of the schedules, such
as ``end`` and ``T_max``, in its checkpoints. On a resume it restores them all and ignores the
config. Here a resume uses the settings of the config. The method is our own.
"""

import itertools
import json
import warnings
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from dblrgan_mm.errors import LaunchError

_SETTINGS = 'optimisation'  # key in the meta information of a checkpoint
_PARTS = ('optim_wrapper', 'param_scheduler', 'auto_scale_lr')


def store_settings(runner: Runner, checkpoint: dict) -> None:
    """Store the settings of optimisers and schedules in a checkpoint, as plain data."""
    checkpoint['meta'][_SETTINGS] = _settings(runner)


def use_changed_settings(runner: Runner, checkpoint: dict) -> None:
    """Let a resumed run use the settings of its config, and log those that changed.

    If none changed, the checkpoint is left as it is. Otherwise its schedules are replaced by those
    of the config, advanced to the iteration of the checkpoint. The learning rates are then those of
    a run that used the new settings from the start.

    Args:
        runner: runner whose optimisers and schedules are built, but not loaded from the checkpoint.
        checkpoint: the loaded checkpoint, changed in place.

    Raises:
        LaunchError: if the parameter groups of the config differ from those of the checkpoint.
    """
    before = checkpoint['meta'].get(_SETTINGS)
    if before is None:
        runner.logger.warning(
            'The checkpoint does not state the settings that it was trained with: its optimiser '
            'settings and schedules are used, even where those of the config differ'
        )
        return
    changes = _changes(before, _settings(runner))
    if not changes:
        return
    done = checkpoint['meta']['iter']
    schedules = _named(runner.param_schedulers or [])
    every = [schedule for group in schedules.values() for schedule in group]
    with warnings.catch_warnings():  # MMEngine warns that the optimiser has not stepped yet
        warnings.simplefilter('ignore')
        for _, schedule in itertools.product(range(done), every):
            if not schedule.by_epoch:
                schedule.step()
    states = {name: [s.state_dict() for s in group] for name, group in schedules.items()}
    checkpoint['param_schedulers'] = states.get('', states)

    scheduled = {'lr', *(schedule.param_name for schedule in every)}
    scheduled |= {f'initial_{name}' for name in scheduled}
    all_settings = any(change.startswith('optim_wrapper') for change in changes)
    wrapper, stored = runner.optim_wrapper, checkpoint.get('optimizer', {})
    several = isinstance(wrapper, OptimWrapperDict)
    for name, part in wrapper.items() if several else [('', wrapper)]:
        state = stored.get(name, {}) if several else stored
        there = [*state.get('param_groups', []), *filter(None, [state.get('base_param_settings')])]
        if there and len(there) != len(part.param_groups):
            raise LaunchError(
                'the parameter groups of the config differ from those of the checkpoint: '
                f'{"; ".join(changes)}. Use the same groups, or start a new run with load_from'
            )
        for old, new in zip(there, part.param_groups, strict=False):
            kept = {key for key in new if key != 'params' and (all_settings or key in scheduled)}
            old.update({key: new[key] for key in kept})
    runner.logger.warning(
        'Settings changed since the checkpoint. From iteration '
        f'{done + 1} on, the new ones are used, with the learning rates of the new schedule at '
        f'that iteration: {"; ".join(changes)}'
    )


def _settings(runner: Runner) -> dict[str, Any]:
    given = {name: runner.cfg.get(name) for name in _PARTS}
    given['train_cfg'] = dict(max_iters=runner.max_iters)  # the default end of a schedule
    return json.loads(json.dumps(given, default=str))


def _changes(old: Any, new: Any, place: str = '') -> list[str]:
    """List the settings that differ, as '<key>: <new value> (was <old value>)'."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            change
            for key in old | new
            for change in _changes(old.get(key), new.get(key), f'{place}.{key}'.lstrip('.'))
        ]
    return [] if old == new else [f'{place}: {new} (was {old})']


def _named(schedules: dict | list) -> dict[str, list]:
    """Return the schedules by the name of their optimiser, which is '' if there is only one."""
    return schedules if isinstance(schedules, dict) else {'': schedules}
