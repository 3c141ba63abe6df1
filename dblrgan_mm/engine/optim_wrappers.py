"""Optimiser wrappers that skip steps that would corrupt the weights."""

import contextlib
import math
from collections.abc import Iterator

import torch
from mmagic.registry import OPTIM_WRAPPERS
from mmengine.optim import OptimWrapper
from mmengine.utils import digit_version
from torch import nn

from dblrgan_mm.engine.processes import any_process


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` that skips a step if its loss or gradient is not finite.

    All processes skip the same steps: a non-finite loss makes the gradient non-finite, and the
    gradients are summed over the processes. ``NonFiniteHook`` logs skipped steps and stops the run
    after too many.

    Adam, AdamW and the AdamW part of ``ConvMuon`` use torch's fused kernels, unless the config sets
    ``fused`` or ``foreach``. These optimisers skip a step by themselves, so nothing waits for the
    GPU until one of the attributes below is read. With other optimisers, ``clip_grad`` or a loss
    scale, each step waits.

    Args:
        optimizer: a torch optimiser.
        **kwargs: as in MMEngine's ``OptimWrapper``.

    Attributes:
        outcome: result of the last iteration: 'step', 'non-finite' or 'overflow' (in mixed
            precision; the next loss scale may fix it), or None if there was no step, e.g. while
            gradients are accumulated.
        skipped: number of steps skipped so far, {'non-finite': count, 'overflow': count}; stored
            in checkpoints.
        in_a_row: number of non-finite steps since the last successful step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs) -> None:
        super().__init__(optimizer=optimizer, **kwargs)
        use_fused_kernels(optimizer)
        self._outcome: str | None = None
        self._skipped = {'non-finite': 0, 'overflow': 0}
        self._in_a_row = 0
        # outcomes not counted yet; a tensor on the device holds whether the step was taken
        self._uncounted: list[torch.Tensor | str | None] = []
        self._finite_losses: torch.Tensor | None = None

    @property
    def outcome(self) -> str | None:
        self._count()
        return self._outcome

    @property
    def skipped(self) -> dict[str, int]:
        self._count()
        return self._skipped

    @property
    def in_a_row(self) -> int:
        self._count()
        return self._in_a_row

    def forget_outcome(self) -> None:
        """Set :attr:`outcome` to None, before an iteration that may take no step."""
        self._uncounted.append(None)

    def update_params(self, loss: torch.Tensor, **kwargs) -> None:
        """Update as MMEngine does; a non-finite loss gives a NaN gradient."""
        self.forget_outcome()
        finite = loss.detach().isfinite()
        before = self._finite_losses
        self._finite_losses = finite if before is None else before & finite
        super().update_params(loss * torch.where(finite, 1.0, math.nan), **kwargs)

    def step(self, **kwargs) -> None:
        """Step if all gradients are finite."""
        finite = self._gradient_norm().isfinite()
        if self._can_step_unseen():
            self.optimizer.found_inf = (~finite).float()  # as torch's GradScaler does
            try:
                self._step(**kwargs)
            finally:
                self.optimizer.__dict__.pop('found_inf', None)
            outcome: torch.Tensor | str = finite
        elif finite:
            if self.clip_grad_kwargs:
                self._clip_grad()
            self._step(**kwargs)
            outcome = 'step'
        elif self._may_overflow() and not any_process(self._saw_bad_loss()):
            outcome = 'overflow'
        else:
            outcome = 'non-finite'
        self._uncounted.append(outcome)
        if len(self._uncounted) > 1000:  # nothing has read the attributes
            self._count()
        self._finite_losses = None

    def _can_step_unseen(self) -> bool:
        """Return whether the optimiser itself skips a step with a non-finite gradient."""
        fused = all(group.get('fused') for group in self.optimizer.param_groups)
        return fused and not self.clip_grad_kwargs and not self._may_overflow()

    def _saw_bad_loss(self) -> bool:
        return self._finite_losses is not None and not self._finite_losses

    def _count(self) -> None:
        """Count the outcomes not counted yet; waits for the last step."""
        uncounted, self._uncounted = self._uncounted, []
        for outcome in uncounted:
            if isinstance(outcome, torch.Tensor):
                outcome = 'step' if outcome else 'non-finite'
            self._outcome = outcome
            if outcome in self._skipped:
                self._skipped[outcome] += 1
            if outcome in ('step', 'non-finite'):
                self._in_a_row = 0 if outcome == 'step' else self._in_a_row + 1

    def _step(self, **kwargs) -> None:
        self.optimizer.step(**kwargs)

    def _may_overflow(self) -> bool:
        return False

    def _gradient_norm(self) -> torch.Tensor:
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        return nn.utils.clip_grad_norm_(parameters, math.inf)  # does not change the gradients

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'guard': dict(self.skipped, in_a_row=self.in_a_row)}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        guard = state_dict.pop('guard', None)
        if guard is not None:
            self._uncounted.clear()
            self._in_a_row = guard['in_a_row']
            self._skipped = {name: guard[name] for name in self._skipped}
        # keep this run's choice of kernels: the checkpoint may hold another one
        chosen = [{k: group[k] for k in ('fused', 'foreach') if k in group}
                  for group in self.optimizer.param_groups]  # fmt: skip
        stored = state_dict['param_groups']
        if len(stored) == len(chosen):
            state_dict['param_groups'] = [a | b for a, b in zip(stored, chosen, strict=True)]
        super().load_state_dict(state_dict)
        self._lay_out_as_weights()

    @torch.no_grad()
    def _lay_out_as_weights(self) -> None:
        """Give the optimiser's moments the memory layout of the weights, as fused kernels require.

        The moments in a checkpoint may have another layout.
        """
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(GuardedOptimWrapper):
    """``GuardedOptimWrapper`` in mixed precision; replaces MMEngine's ``AmpOptimWrapper``.

    MMEngine's wrapper needs a GPU, and keeps halving the loss scale if the loss itself is not
    finite. This one halves it only if the loss is finite and the scaled gradient is not. bfloat16
    has the range of float32 and uses no loss scale.

    Args:
        dtype: 'float16' or 'bfloat16'.
        loss_scale: arguments of torch's ``GradScaler``, e.g. ``dict(init_scale=1024.0)``.
        **kwargs: as in MMEngine's ``OptimWrapper``.

    Raises:
        ValueError: for another dtype.
    """

    def __init__(self, dtype: str = 'float16', loss_scale: dict | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if dtype not in ('float16', 'bfloat16'):
            raise ValueError(f"dtype must be 'float16' or 'bfloat16', got {dtype!r}")
        self._dtype = getattr(torch, dtype)
        self._device = self.optimizer.param_groups[0]['params'][0].device.type
        arguments = dict(loss_scale or {}, enabled=dtype == 'float16')
        if hasattr(torch.amp, 'GradScaler'):
            self.loss_scaler = torch.amp.GradScaler(self._device, **arguments)
        else:  # torch < 2.3
            self.loss_scaler = torch.cuda.amp.GradScaler(**arguments)

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        with super().optim_context(model), torch.autocast(self._device, self._dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        super().backward(self.loss_scaler.scale(loss), **kwargs)

    def step(self, **kwargs) -> None:
        self.loss_scaler.unscale_(self.optimizer)
        super().step(**kwargs)
        if self.loss_scaler.is_enabled():
            bad = self.outcome == 'non-finite'
            self.loss_scaler.update(self.loss_scaler.get_scale() if bad else None)

    def _step(self, **kwargs) -> None:
        self.loss_scaler.step(self.optimizer, **kwargs)

    def _may_overflow(self) -> bool:
        return self.loss_scaler.is_enabled() and self.loss_scaler.get_scale() > 1

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop('loss_scaler', None)
        if scaler:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)


def use_fused_kernels(optimizer: torch.optim.Optimizer) -> None:
    """Make Adam and AdamW use fused kernels if torch has them, unless the config chose others."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return
    devices = {p.device.type for group in optimizer.param_groups for p in group['params']}
    if not devices <= {'cpu', 'cuda'} or digit_version(torch.__version__) < digit_version('2.4'):
        return  # older versions have none for CPUs, and the one for GPUs refuses some layouts
    for group in optimizer.param_groups:
        if group['fused'] is None and group['foreach'] is None:
            group['fused'] = True
