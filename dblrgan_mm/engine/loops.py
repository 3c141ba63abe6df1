"""A training loop that resumes exactly where a run was interrupted."""

import math

import torch
from mmagic.registry import DATASETS, LOOPS
from mmengine.dist import broadcast
from mmengine.optim import OptimWrapperDict
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.base_loop import BaseLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator, calc_dynamic_intervals

from dblrgan_mm.datasets.resumable import ResumableSampler, SeededDataset, seed_everything
from dblrgan_mm.engine.checkpoint_hooks import HISTORY, WholeCheckpointHook
from dblrgan_mm.engine.processes import any_process
from dblrgan_mm.engine.termination import Termination
from dblrgan_mm.errors import LaunchError

_SAMPLES = 'samples_seen'
_VALIDATED = 'iteration_of_last_validation'


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` with an exact resume that takes seconds.

    When MMEngine resumes a run, it loads all batches again that the run has already seen. Here the
    checkpoint stores the number of samples seen, and the sampler continues with the next one. Each
    sample's random numbers depend only on the seed and the sample's position, and the model's
    random numbers only on the seed, the iteration and the process. On a CPU in float32, an
    interrupted and resumed run therefore ends with the same weights as an uninterrupted one, bit
    for bit, with any number of data loader workers. After a resume with another number of processes
    or another batch size, the samples continue in the same order, but are batched differently.

    A validation that was due when the run was killed is done at the resume.

    On SIGTERM, which Slurm sends before it kills a job, the run writes a checkpoint and ends, on
    all processes at the same iteration. The processes check for it after every optimiser step, with
    several GPUs after every tenth. During a validation SIGTERM has no effect until the validation
    ends, but a checkpoint is written before each validation.

    Args:
        runner, max_iters, val_begin, val_interval, dynamic_intervals: as in MMEngine's loop.
        dataloader: config of the data loader. The sampler must be ``ResumableSampler``; the data
            set can be any.

    Raises:
        LaunchError: if the sampler is another one; if the iterations at which the run validates,
            saves or ends, or at which a network of a GAN starts training, are not multiples of the
            number of iterations over which gradients are accumulated; or if the processes resumed
            from different checkpoints.
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
        # as in MMEngine, but the workers start only when the first sample is known
        dataset = DATASETS.build(dataloader['dataset'])
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
        BaseLoop.__init__(self, runner, {**dataloader, 'dataset': SeededDataset(dataset)})
        batches = self.dataloader.batch_sampler
        if not isinstance(getattr(batches, 'sampler', None), ResumableSampler):
            raise LaunchError(
                "ResumableTrainLoop needs train_dataloader.sampler=dict(type='ResumableSampler'), "
                f'but the config has {dataloader.get("sampler")}'
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
        shared = torch.tensor(runner.seed)
        broadcast(shared)  # with diff_rank_seed each process has a different one
        seed, rank = int(shared.item()), self._sampler.rank
        seen = hub.get_info(_SAMPLES, self._iter * self._batch)
        self._sampler.start(seed, seen)
        first = torch.tensor(self._iter)
        broadcast(first)
        if any_process(first.item() != self._iter):
            raise LaunchError(
                'the processes start from different iterations: give all of them the same work '
                'dir on a shared disk, and pass --resume to all of them or to none'
            )
        validation = getattr(runner.val_loop, 'dataloader', None)
        validation = getattr(runner.val_loop, 'dataloaders', [validation])  # of MMagic's loop
        with Termination([self.dataloader, *filter(None, validation)]) as termination:
            self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
            termination.iterators.append(self.dataloader_iterator._iterator)
            runner.call_hook('before_train')
            runner.call_hook('before_train_epoch')
            if self._iter:
                runner.logger.info(f'Resuming after iteration {self._iter}')
                self._decide_current_val_interval()
                self._validate_if_due()
            while self._iter < self._max_iters and not self.stop_training:
                runner.model.train()
                batch = next(self.dataloader_iterator)
                seed_everything(seed, 1, self._iter, rank)
                hub.update_info(_SAMPLES, seen := seen + self._batch)
                self.run_iter(batch)
                if self._iter % HISTORY == 0:
                    # by default MMEngine keeps a million values and copies them in each iteration
                    for history in hub.log_scalars.values():
                        history.max_length = HISTORY
                self._decide_current_val_interval()
                can_stop = self._iter % window == 0 and self._iter < self._max_iters
                if can_stop and termination.agreed(self._iter // window):
                    self._save()
                    runner.logger.warning(
                        f'Stopped by SIGTERM after iteration {self._iter}; run the same command '
                        'with --resume to continue'
                    )
                    break
                self._validate_if_due()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _validate_if_due(self) -> None:
        """Validate if it is due after this iteration and was not done yet."""
        hub = self.runner.message_hub
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if (
            self.runner.val_loop is None
            or not due
            or self._iter < self.val_begin
            or hub.get_info(_VALIDATED, 0) == self._iter
        ):
            return
        # the validation may take long and may be killed
        for hook in self._checkpoint_hooks():
            hook.save_now(self.runner, self._iter)
        # set before the validation: checkpoints saved during it are saved after scoring
        hub.update_info(_VALIDATED, self._iter)
        self.runner.val_loop.run()

    def _save(self) -> None:
        """Save a checkpoint unless there is one for this iteration."""
        hooks = self._checkpoint_hooks()
        if not hooks:
            raise LaunchError(
                'SIGTERM stopped the run and nothing was saved, because the config has no '
                "default_hooks.checkpoint of type 'WholeCheckpointHook'"
            )
        hooks[0].save_now(self.runner, self._iter)

    def _checkpoint_hooks(self) -> list[WholeCheckpointHook]:
        return [hook for hook in self.runner.hooks if isinstance(hook, WholeCheckpointHook)]

    def _accumulation(self) -> int:
        """Return after how many iterations no optimiser has pending accumulated gradients."""
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
                    f'{name}={count} is not a multiple of the {window} iterations over which '
                    'gradients are accumulated; MMEngine counts each of them as an iteration'
                )
        return window
