"""Hooks for faults during training: non-finite losses and gradients, unreadable frames."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmagic.registry import HOOKS
from mmengine.dist import all_reduce, get_rank
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from dblrgan_mm.engine.optim_wrappers import GuardedOptimWrapper
from dblrgan_mm.engine.processes import float_buffers
from dblrgan_mm.errors import LaunchError, UserError


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Logs the steps that a ``GuardedOptimWrapper`` skipped, and stops the run after too many.

    After a skipped iteration the batch statistics are restored, because a single non-finite value
    would stay in them forever. The method is our own.

    Args:
        max_in_a_row: stop the run on all processes after this many non-finite steps in a row.
            Each process then writes the names of the windows in its last batch to
            ``non_finite_iter_<n>_rank<r>.json`` in the work dir.
        interval: number of iterations between two checks of the steps; each check waits for the
            GPU. Above 1, a log line covers a range of iterations, and the model must not have
            batch statistics.

    Raises:
        UserError: after ``max_in_a_row`` non-finite steps in a row.
        LaunchError: for an interval above 1 and a model with batch statistics.
    """

    def __init__(self, max_in_a_row: int = 10, interval: int = 1) -> None:
        self.max_in_a_row = max_in_a_row
        self.every = interval
        self._buffers: list[torch.Tensor] = []
        self._skipped: dict[str, int] = {}  # per optimiser, as of the last check

    def before_train(self, runner: Runner) -> None:
        if self.every > 1 and any(isinstance(m, _BatchNorm) for m in runner.model.modules()):
            raise LaunchError(
                'default_hooks.non_finite.interval must be 1 for a model with batch normalisation, '
                f'because its statistics are restored after a skipped step; got {self.every}'
            )
        self._skipped = {
            name: _skipped_steps(wrapper) for name, wrapper in _guarded_wrappers(runner)
        }

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        wrappers = [wrapper for _, wrapper in _guarded_wrappers(runner)]
        for wrapper in wrappers:
            wrapper.forget_outcome()  # one of a GAN's two optimisers may take no step
        # only when no accumulated gradients are pending
        if self.every == 1 and all(wrapper.should_update() for wrapper in wrappers):
            self._keep_buffers(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if self.every > 1:
            self._look_back(runner, data_batch, outputs)
            return
        for name, wrapper in _guarded_wrappers(runner):
            if wrapper.outcome == 'non-finite':
                _copy(self._buffers, list(float_buffers(runner.model).values()))
            if wrapper.outcome in ('non-finite', 'overflow'):
                self._report(runner, name, wrapper, data_batch, outputs)

    def _look_back(self, runner: Runner, data_batch: Any, outputs: Any) -> None:
        """Log the steps skipped since the last check, if a check is due."""
        iteration = runner.iter + 1
        if iteration % self.every and iteration < runner.max_iters:
            return
        for name, wrapper in _guarded_wrappers(runner):
            skipped = _skipped_steps(wrapper) - self._skipped.get(name, 0)
            self._skipped[name] = _skipped_steps(wrapper)
            if not skipped:
                continue
            whose = f' of the {name}' if name else ''
            runner.logger.warning(
                f'Up to iteration {iteration}: loss or gradient{whose} was not finite or '
                f'overflowed in {skipped} of the last {self.every} iterations; these steps were '
                f'skipped ({wrapper.skipped["non-finite"]} not finite so far, '
                f'{wrapper.in_a_row} in a row)'
            )
            self._stop_if_too_many(runner, name, wrapper, data_batch, outputs)

    def _keep_buffers(self, runner: Runner) -> None:
        buffers = list(float_buffers(runner.model).values())
        if self._buffers:
            _copy(buffers, self._buffers)
        else:
            self._buffers = [buffer.clone() for buffer in buffers]

    def _report(
        self, runner: Runner, name: str, wrapper: Any, data_batch: Any, outputs: Any
    ) -> None:
        iteration = runner.iter + 1
        whose = f' of the {name}' if name else ''
        if wrapper.outcome == 'overflow':
            runner.logger.warning(
                f'Iteration {iteration}: the scaled gradient{whose} overflowed (expected '
                f'occasionally in mixed precision); step skipped '
                f'({wrapper.skipped["overflow"]} so far), the loss scale is now '
                f'{wrapper.loss_scaler.get_scale():g}'
            )
            return
        runner.logger.warning(
            f'Iteration {iteration}: loss or gradient{whose} was not finite; step skipped on all '
            f'processes ({wrapper.skipped["non-finite"]} so far, {wrapper.in_a_row} in a row)'
        )
        self._stop_if_too_many(runner, name, wrapper, data_batch, outputs)

    def _stop_if_too_many(
        self, runner: Runner, name: str, wrapper: Any, data_batch: Any, outputs: Any
    ) -> None:
        if wrapper.in_a_row < self.max_in_a_row:
            return
        iteration, whose = runner.iter + 1, f' of the {name}' if name else ''
        file = Path(runner.work_dir) / f'non_finite_iter_{iteration}_rank{get_rank()}.json'
        losses = {key: float(value) for key, value in (outputs or {}).items()}
        windows = window_names(data_batch)
        file.write_text(json.dumps(dict(iteration=iteration, windows=windows, losses=losses)))
        raise UserError(
            f'stopped at iteration {iteration}: loss or gradient{whose} was not finite '
            f'{wrapper.in_a_row} times in a row. {file} lists the windows of the last batch. '
            'Lower the learning rate, set clip_grad, or use bfloat16 or float32, then resume from '
            'the last checkpoint with --resume'
        )


def _guarded_wrappers(runner: Runner) -> list[tuple[str, Any]]:
    wrapper = runner.optim_wrapper
    wrappers = wrapper.items() if isinstance(wrapper, OptimWrapperDict) else [('', wrapper)]
    return [
        (name, wrapper) for name, wrapper in wrappers if isinstance(wrapper, GuardedOptimWrapper)
    ]


def _skipped_steps(wrapper: Any) -> int:
    return sum(wrapper.skipped.values())


def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)


@HOOKS.register_module()
class UnreadableFramesHook(Hook):
    """Counts and logs the windows that ``VideoClipDataset(unreadable='skip')`` replaced."""

    def __init__(self) -> None:
        self._count = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        for sample in _samples(data_batch):
            for message in sample.metainfo.get('skipped', ()):
                self._count += 1
                # not a warning, because MMEngine logs warnings of the main process only
                runner.logger.error(f'Window skipped, {self._count} so far: {message}')

    def after_train(self, runner: Runner) -> None:
        count = torch.tensor(self._count)
        all_reduce(count)
        if count:
            runner.logger.error(
                f'{count.item()} windows (of all processes) were skipped since this command '
                'started, because a frame could not be read; the log lists them'
            )


def _samples(data_batch: Any) -> list:
    samples = data_batch.get('data_samples') if isinstance(data_batch, Mapping) else None
    return samples if isinstance(samples, list) else []


def window_names(data_batch: Any) -> list[str]:
    """Return '<clip>/<centre frame>' per window of a batch; '' if ``PackInputs`` left it out."""
    return [sample.metainfo.get('key', '') for sample in _samples(data_batch)]
