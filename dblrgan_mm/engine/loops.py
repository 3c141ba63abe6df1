"""The training loop that goes on where a killed run was."""

import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from mmagic.registry import DATASETS, LOOPS
from mmengine.dist import broadcast, get_world_size
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator, calc_dynamic_intervals
from torch.utils.data import DataLoader

from dblrgan_mm import launch
from dblrgan_mm.datasets.resumable import ResumableSampler, SeededDataset, seed_everything
from dblrgan_mm.engine.checkpoints import HISTORY, WholeCheckpointHook
from dblrgan_mm.engine.processes import any_process
from dblrgan_mm.errors import LaunchError

_SAMPLES = 'samples_seen'
_VALIDATED = 'iteration_of_last_validation'


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop``, resumed within seconds and exactly.

    A resume of MMEngine's loads every batch once more that was seen before. Here the sampler jumps
    to the place, which the checkpoint holds as the number of samples seen; each sample's random
    numbers follow from the seed and its place, and the model's from the seed, iteration and
    process. So on a CPU in float32 a run that was killed ends in the weights of one that was not,
    bit for bit, with any number of worker processes. After a resume with another number of
    processes or another batch size, the order goes on behind the samples seen, and the batches are
    other ones.

    A validation that was due, and that a kill prevented, is made up for at the resume.

    SIGTERM, which Slurm sends before it kills, ends the run after a checkpoint, on all processes
    at the same iteration. The processes agree on that after each iteration, on GPUs after every
    tenth. In a validation it has no effect until the end, but a checkpoint is written before.

    Args:
        runner, max_iters, val_begin, val_interval, dynamic_intervals: as of MMEngine's.
        dataloader: its sampler must be ``ResumableSampler``; its data set may be any.

    Raises:
        LaunchError: for another sampler, and where gradients are accumulated over a number of
            iterations that does not divide the iterations at which a run validates, saves or ends,
            or at which a player of a GAN begins to train; and where processes resumed different
            checkpoints.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
        dynamic_intervals: list | None = None,
    ) -> None:
        # as MMEngine's, without starting the workers before it is known where to
        dataset = DATASETS.build(dataloader['dataset'])
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        BaseLoop.__init__(self, runner, {**dataloader, 'dataset': SeededDataset(dataset)})
        batches = self.dataloader.batch_sampler
        if not isinstance(getattr(batches, 'sampler', None), ResumableSampler):
            raise LaunchError(
                "ResumableTrainLoop needs train_dataloader.sampler=dict(type='ResumableSampler'), "
                f'the config has {dataloader.get("sampler")}'
            )
        self._sampler = batches.sampler
        self._batch = batches.batch_size * self._sampler.world_size
        self._max_iters = int(max_iters)
        self._max_epochs = 1
        self._epoch = 0
        self._iter = 0
        self.val_begin = val_begin
        self.val_interval = val_interval
        self.stop_training = False
        runner.visualizer.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)
        self.dynamic_milestones, self.dynamic_intervals = calc_dynamic_intervals(
            val_interval, dynamic_intervals
        )

    def run(self) -> torch.nn.Module:
        """Train to the last iteration, or until SIGTERM."""
        runner, hub = self.runner, self.runner.message_hub
        window = self._accumulation()
        seed = torch.tensor(runner.seed)
        broadcast(seed)  # with diff_rank_seed each process has another
        seed, rank = seed.item(), self._sampler.rank
        seen = hub.get_info(_SAMPLES, self._iter * self._batch)
        self._sampler.start(seed, seen)
        first = torch.tensor(self._iter)
        broadcast(first)
        if any_process(first.item() != self._iter):
            raise LaunchError(
                'the processes go on from different iterations: give all of them the same work '
                'dir on a shared disk, and --resume to all or none'
            )
        validation = getattr(runner.val_loop, 'dataloader', None)
        validation = getattr(runner.val_loop, 'dataloaders', [validation])  # MMagic's has several
        with _Termination([self.dataloader, *filter(None, validation)]) as termination:
            self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
            termination.iterators.append(self.dataloader_iterator._iterator)
            runner.call_hook('before_train')
            runner.call_hook('before_train_epoch')
            if self._iter:
                runner.logger.info(f'Training goes on behind {self._iter} iterations')
                self._decide_current_val_interval()
                self._validate_if_due()
            while self._iter < self._max_iters and not self.stop_training:
                runner.model.train()
                batch = next(self.dataloader_iterator)
                seed_everything(seed, 1, self._iter, rank)
                hub.update_info(_SAMPLES, seen := seen + self._batch)
                self.run_iter(batch)
                if self._iter % HISTORY == 0:
                    # MMEngine keeps a million values, and copies all of them in each iteration
                    for history in hub.log_scalars.values():
                        history.max_length = HISTORY
                self._decide_current_val_interval()
                between = self._iter % window == 0 and self._iter < self._max_iters
                if between and termination.agreed(self._iter // window):
                    self._save()
                    runner.logger.warning(
                        f'Stopped by SIGTERM after iteration {self._iter}; the same command with '
                        '--resume goes on'
                    )
                    break
                self._validate_if_due()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _validate_if_due(self) -> None:
        """Validate after this iteration, unless that was done."""
        hub = self.runner.message_hub
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if (
            self.runner.val_loop is None
            or not due
            or self._iter < self.val_begin
            or hub.get_info(_VALIDATED, 0) == self._iter
        ):
            return
        # it may take long, and a kill may come
        for hook in self._checkpoint_hooks():
            hook.save_now(self.runner, self._iter)
        # before it: what is saved in the course of it comes after the scores
        hub.update_info(_VALIDATED, self._iter)
        self.runner.val_loop.run()

    def _save(self) -> None:
        """Save a checkpoint now, unless that was done after this iteration."""
        hooks = self._checkpoint_hooks()
        if not hooks:
            raise LaunchError(
                'SIGTERM stopped the run, and nothing was saved: the config has no '
                "default_hooks.checkpoint of type 'WholeCheckpointHook'"
            )
        hooks[0].save_now(self.runner, self._iter)

    def _checkpoint_hooks(self) -> list[WholeCheckpointHook]:
        return [hook for hook in self.runner.hooks if isinstance(hook, WholeCheckpointHook)]

    def _accumulation(self) -> int:
        """Iterations to the next one after which no player has a sum of gradients pending."""
        wrapper = self.runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        window = math.lcm(*(w._accumulative_counts for w in wrappers))
        model = getattr(self.runner.model, 'module', self.runner.model)
        counts = {
            'train_cfg.max_iters': self._max_iters,
            'train_cfg.val_interval': math.gcd(*self.dynamic_intervals),
            'model.train_cfg.gen_init_steps': getattr(model, 'gen_init_steps', 0),
            'model.train_cfg.disc_init_steps': getattr(model, 'disc_init_steps', 0),
        }
        for hook in self._checkpoint_hooks():
            counts['default_hooks.checkpoint.interval'] = hook.interval
        for name, count in counts.items():
            if count > 0 and count % window:
                raise LaunchError(
                    f'{name}={count} is no multiple of the {window} iterations over which '
                    'gradients are accumulated; MMEngine counts each of them as an iteration'
                )
        return window


class _Termination:
    """Notes SIGTERM for as long as it is entered.

    Slurm and torchrun send it to the workers of the loaders, too, whose loss would end the run
    before the checkpoint is written: they live on for half a minute. They are ended at the exit,
    since Python would wait for them.
    """

    def __init__(self, loaders: list[DataLoader]) -> None:
        self.asked = False
        self.iterators: list[Any] = []
        self._loaders = loaders
        self._main = threading.current_thread() is threading.main_thread()
        self._world_size = get_world_size()

    def __enter__(self) -> '_Termination':
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._note)
        for loader in self._loaders:
            loader.worker_init_fn = _OutliveTermination(loader.worker_init_fn)
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
        for iterator in (*self.iterators, *(loader._iterator for loader in self._loaders)):
            if hasattr(iterator, '_shutdown_workers'):  # there are some
                iterator._shutdown_workers()
        for loader in self._loaders:
            loader._iterator = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def agreed(self, count: int) -> bool:
        """Whether any process was asked to end; the same answer on all of them."""
        if os.getppid() != launch.PARENT and 'TORCHELASTIC_RUN_ID' in os.environ:
            raise RuntimeError('torchrun has died: this process would train on beside a new run')
        if torch.cuda.is_available() and self._world_size > 1 and count % 10:
            return False  # the answer waits for the GPU
        return any_process(self.asked)


class _OutliveTermination:
    """A worker's initialisation after which SIGTERM ends it in half a minute."""

    def __init__(self, first: Callable[[int], None] | None) -> None:
        self._first = first

    def __call__(self, worker: int) -> None:
        if self._first is not None:
            self._first(worker)
        # torch's own handler, which ends the worker, is in place already
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(30))
