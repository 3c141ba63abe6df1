"""Training checkpoints: written atomically, stored as plain data, checked against the model."""

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmagic.registry import HOOKS
from mmengine.dist import get_rank, get_world_size, is_main_process, master_only
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import nn

from dblrgan_mm import files
from dblrgan_mm.engine.hooks import DeferredLossesHook
from dblrgan_mm.engine.processes import any_process, gather_buffers
from dblrgan_mm.engine.schedules import store_settings, use_changed_settings
from dblrgan_mm.errors import CheckpointMismatchError, UserError
from dblrgan_mm.models.dblrgan import unwrap

HISTORY = 1000  # number of values kept per logged quantity; the log's windows are shorter


class WholeFileBackend(LocalBackend):
    """MMEngine's backend for local files, with atomic writes."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        final = Path(filepath)
        final.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(final, obj)


register_backend('whole', WholeFileBackend, force=True)


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook``, safe against kills and full disks.

    MMEngine writes in place, so a kill leaves a partial file under the final name. It also deletes
    the oldest checkpoint and the best one before it writes the new one. This hook gives a
    checkpoint its final name once it is completely on disk, and only then deletes the one it
    replaces. If a checkpoint cannot be written, the error is logged, the previous checkpoint is
    kept and training continues. Only the last checkpoint of a run must be written: if that fails,
    the run ends with an error.

    In addition to MMEngine's content, a checkpoint holds:

    - ``rank_buffers``, if there are several processes: the floating-point buffers (batch
      statistics) of each process. The model's state holds their mean, which is also what is
      validated. Resuming with the same number of processes gives each process its own buffers;
    - the settings of optimisers and schedules. A resume uses those of the config, and logs which
      ones changed;
    - the last 1000 values of the log history as plain tensors. MMEngine stores pickled objects,
      which ``torch.load`` refuses.

    Args:
        **kwargs: as in MMEngine's ``CheckpointHook``, for a local disk.
    """

    # set by MMEngine
    best_ckpt_path: str | None
    best_ckpt_path_dict: dict[str, str | None]

    def __init__(self, **kwargs) -> None:
        super().__init__(**{**kwargs, 'backend_args': dict(backend='whole')})
        self._step: int | None = None  # iteration of the last checkpoint that was written
        self._fault: OSError | None = None  # why the latest checkpoint could not be written
        self._buffers: dict[str, torch.Tensor] = {}  # of all processes, during a save
        self._wait = False

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if runner._resume and Path(runner._load_from).parent == Path(self.out_dir):
            self.last_ckpt, self._step = runner._load_from, runner.iter
        if is_main_process():
            for part in Path(self.out_dir).glob('*.pth.part'):  # left by a killed run
                part.unlink()

    def after_train(self, runner: Runner) -> None:
        """Raise a ``UserError`` if the last checkpoint could not be written."""
        if self._fault is not None:
            raise UserError(
                f'the last checkpoint could not be written to {self.out_dir} ({self._fault}); '
                + self._kept()
            ) from self._fault
        super().after_train(runner)

    def save_now(self, runner: Runner, iteration: int) -> None:
        """Save a checkpoint for this iteration unless there is one; call it on all processes."""
        if self._step != iteration:
            meta = dict(epoch=runner.epoch, iter=iteration)
            self._save_checkpoint_with_step(runner, iteration, meta)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        hub = checkpoint['message_hub']
        for name, history in hub['log_scalars'].items():
            values, counts = (torch.from_numpy(part[-HISTORY:].copy()) for part in history.data)
            hub['log_scalars'][name] = dict(values=values, counts=counts)
        for name, value in hub['runtime_info'].items():
            if isinstance(value, np.generic):
                hub['runtime_info'][name] = value.item()
        # MultiStepLR stores its milestones in a Counter, which torch before 2.4 refuses to load
        checkpoint['param_schedulers'] = _plain(checkpoint.get('param_schedulers'))
        store_settings(runner, checkpoint)
        if self._buffers:
            checkpoint['rank_buffers'] = self._buffers
            state = checkpoint['state_dict']
            state.update({k: v.mean(dim=0) for k, v in self._buffers.items() if k in state})

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, part in scalars.items():
            if isinstance(part, dict):
                scalars[name] = HistoryBuffer(part['values'].tolist(), part['counts'].tolist())
        for name, values in checkpoint.get('rank_buffers', {}).items():
            known = name in checkpoint['state_dict']
            if known and runner._resume and len(values) == get_world_size():
                checkpoint['state_dict'][name] = values[get_rank()]
        if runner._resume:
            use_changed_settings(runner, checkpoint)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._wait:
            return
        for hook in runner.hooks:
            if isinstance(hook, DeferredLossesHook):
                hook.read(runner)
        before, outdated = list(getattr(self, 'keep_ckpt_ids', [])), []  # set by MMEngine
        if self.max_keep_ckpts > 0 and step not in before:
            outdated = before[: max(0, len(before) + 1 - self.max_keep_ckpts)]
            self._keep(runner, [*before, step])
        folder, name = Path(self.out_dir), self.filename_tmpl.format(step)
        runner.message_hub.update_info('last_ckpt', str(folder / name))
        self._buffers = gather_buffers(runner.model)
        with self._log_write_errors(runner, f'checkpoint of iteration {step}') as faults:
            runner.save_checkpoint(
                self.out_dir,
                name,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process():
                last = Path(runner.work_dir) / 'last_checkpoint'
                self.file_backend.put(str(folder / name).encode(), last)
        self._buffers = {}
        self._fault = faults[0] if faults else None
        if self._fault is not None:
            self._keep(runner, before)
        else:
            self.last_ckpt, self._step = str(folder / name), step
            self._remove(runner, [folder / self.filename_tmpl.format(old) for old in outdated])

    def _keep(self, runner: Runner, steps: list[int]) -> None:
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        # hide the old paths: MMEngine deletes these files before it writes the new ones
        single = len(self.key_indicators) == 1
        before = {'': self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        if single:
            self.best_ckpt_path = None
        else:
            self.best_ckpt_path_dict = dict.fromkeys(before)
        info = runner.message_hub.runtime_info
        noted = {key: info[key] for key in info if key.startswith(('best_score', 'best_ckpt'))}
        # skip MMEngine's second save of the last checkpoint: only processes without a write error
        # would reach it
        self._wait = True
        with self._log_write_errors(runner, 'best checkpoint') as faults:
            super()._save_best_checkpoint(runner, metrics)
        self._wait = False
        after = {'': self.best_ckpt_path} if single else dict(self.best_ckpt_path_dict)
        if faults:
            after = dict.fromkeys(before)
            for key in [key for key in info if key.startswith(('best_score', 'best_ckpt'))]:
                del info[key]
            info.update(noted)
        improved = any(after.values())
        for key, path in before.items():
            if after.get(key) is None:
                after[key] = path
            elif path and path != after[key]:
                self._remove(runner, [Path(path)])
        if single:
            self.best_ckpt_path = after['']
        else:
            self.best_ckpt_path_dict = after
        if improved and self.last_ckpt is not None:
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            # the last checkpoint records the path of the best one
            self._save_checkpoint_with_step(runner, runner.iter, meta)

    @master_only
    def _remove(self, runner: Runner, outdated: list[Path]) -> None:
        for path in outdated:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                runner.logger.error(f'{path} could not be removed ({error})')

    @contextlib.contextmanager
    def _log_write_errors(self, runner: Runner, what: str) -> Iterator[list[OSError]]:
        """Log an ``OSError``. On exit the yielded list holds an error on all processes."""
        faults: list[OSError] = []
        try:
            yield faults
        except OSError as error:
            faults.append(error)
            runner.logger.error(
                f'The {what} could not be written to {self.out_dir} ({error}). '
                f'Training continues and tries again at the next checkpoint; {self._kept()}'
            )
        if any_process(bool(faults)) and not faults:
            faults.append(OSError('see the log of the main process'))

    def _kept(self) -> str:
        if self.last_ckpt:
            kept = f'the last complete checkpoint is {self.last_ckpt}'
        else:
            kept = 'there is no complete checkpoint yet'
        return f'{kept}. Free some disk space or check the disk'


def _plain(state: Any) -> Any:
    """Convert dictionaries and lists of any subclass to plain ones, recursively."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return [_plain(value) for value in state] if isinstance(state, list) else state


@HOOKS.register_module()
class CheckpointMatchHook(Hook):
    """Refuses a checkpoint that does not match the model.

    MMEngine loads the weights that fit and only warns about the others, so testing the wrong
    checkpoint prints scores of random weights. Parts other than the generator, such as the
    discriminator, may be missing completely unless a run is resumed: a DBLRGAN can start from a
    DBLRNet.

    Raises:
        CheckpointMismatchError: if a weight is missing, unknown or of another shape; the message
            names the first one.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        require_match(
            unwrap(runner.model), checkpoint.get('state_dict', checkpoint), runner._resume
        )


def require_match(model: nn.Module, stored: Mapping[str, Any], resuming: bool = False) -> None:
    """Raise :class:`CheckpointMismatchError` unless the stored weights match the model.

    The rules are those of :class:`CheckpointMatchHook`.
    """
    faults = []
    for name, part in model.named_children():
        # DDP wraps each part of a GAN separately; checkpoints are stored without the wrappers
        part = unwrap(part)
        here = part.state_dict(prefix=f'{name}.')
        there = {key: stored[key] for key in stored if key.startswith(f'{name}.')}
        if name != 'generator' and not there and not resuming:
            continue
        faults += [
            f'{key} has shape {tuple(there[key].shape)} in the checkpoint, '
            f'{tuple(here[key].shape)} in the model'
            for key in here
            if key in there and there[key].shape != here[key].shape
        ]
        faults += [f'{key} is missing from the checkpoint' for key in here if key not in there]
        faults += [f'{key} is not in the model' for key in there if key not in here]
    if faults:
        raise CheckpointMismatchError(
            f'the checkpoint belongs to another architecture than the config: {faults[0]}'
            + (f' (and {len(faults) - 1} more)' if len(faults) > 1 else '')
            + '. Use the config that it was trained with, or correct the model in your config.'
        )
