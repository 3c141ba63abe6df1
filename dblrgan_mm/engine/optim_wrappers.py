"""Optimiser wrappers that leave out a step that would spoil the weights."""

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
    """MMEngine's ``OptimWrapper`` that skips a step whose loss or gradient is not finite.

    All processes skip alike: a loss that is not finite makes the gradient so, and that is summed
    over the processes. ``NonFiniteHook`` reports skipped steps and ends the run after too many.

    Adam and AdamW step by torch's fused kernels, unless the config sets ``fused`` or ``foreach``.
    These leave a step out by themselves, so that nothing waits for the GPU before the attributes
    below are asked for; with other optimisers, ``clip_grad`` or a loss scale, a step waits.

    Args:
        optimizer: torch's.
        **kwargs: as of MMEngine's.

    Attributes:
        outcome: what became of the last iteration: 'step', 'non-finite' or 'overflow' (of mixed
            precision, which the next loss scale may mend), or None where gradients are still
            being summed up.
        skipped: steps skipped so far, {'non-finite': count, 'overflow': count}; in checkpoints.
        in_a_row: of those that were not finite, how many came last, without a step between.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, **kwargs) -> None:
        super().__init__(optimizer=optimizer, **kwargs)
        use_fused_kernels(optimizer)
        self._outcome: str | None = None
        self._skipped = {'non-finite': 0, 'overflow': 0}
        self._in_a_row = 0
        # outcomes not yet counted, some as a tensor on the device: whether there was a step
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
        """Set :attr:`outcome` to None, before an iteration in which there may be no step."""
        self._uncounted.append(None)

    def update_params(self, loss: torch.Tensor, **kwargs) -> None:
        """As MMEngine's; a loss that is not finite gives a gradient of NaN."""
        self.forget_outcome()
        finite = loss.detach().isfinite()
        before = self._finite_losses
        self._finite_losses = finite if before is None else before & finite
        super().update_params(loss * torch.where(finite, 1.0, math.nan), **kwargs)

    def step(self, **kwargs) -> None:
        """Step if all gradients are finite."""
        finite = self._gradient_norm().isfinite()
        if self._can_step_unseen():
            self.optimizer.found_inf = (~finite).float()  # what torch's GradScaler tells it by
            try:
                self._step(**kwargs)
            finally:
                vars(self.optimizer).pop('found_inf', None)
            outcome = finite
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
        if len(self._uncounted) > 1000:  # nobody asks
            self._count()
        self._finite_losses = None

    def _can_step_unseen(self) -> bool:
        """Whether the optimiser finds out for itself that the gradient is not finite."""
        fused = all(group.get('fused') for group in self.optimizer.param_groups)
        return fused and not self.clip_grad_kwargs and not self._may_overflow()

    def _saw_bad_loss(self) -> bool:
        return self._finite_losses is not None and not self._finite_losses

    def _count(self) -> None:
        """Count what was not yet; waits for the last step."""
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
        return nn.utils.clip_grad_norm_(parameters, math.inf)  # changes nothing

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'guard': dict(self.skipped, in_a_row=self.in_a_row)}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        guard = state_dict.pop('guard', None)
        if guard is not None:
            self._uncounted.clear()
            self._in_a_row = guard['in_a_row']
            self._skipped = {name: guard[name] for name in self._skipped}
        # the kernels stay those of this run: a checkpoint may come from one with others
        chosen = [{k: group[k] for k in ('fused', 'foreach') if k in group}
                  for group in self.optimizer.param_groups]  # fmt: skip
        stored = state_dict['param_groups']
        if len(stored) == len(chosen):
            state_dict['param_groups'] = [a | b for a, b in zip(stored, chosen, strict=True)]
        super().load_state_dict(state_dict)
        self._lay_out_as_weights()

    @torch.no_grad()
    def _lay_out_as_weights(self) -> None:
        """Give the optimiser's moments the weights' layout, which fused kernels take for granted.

        A checkpoint may have them in another one.
        """
        for weight, state in self.optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    state[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


@OPTIM_WRAPPERS.register_module()
class GuardedAmpOptimWrapper(GuardedOptimWrapper):
    """The same in mixed precision; in place of MMEngine's ``AmpOptimWrapper``.

    MMEngine's needs a GPU, and halves the loss scale again and again where it is the loss itself
    that is not finite. Here that is done where the loss is finite and the scaled gradient is not;
    bfloat16, which has float32's range, has no scale.

    Args:
        dtype: 'float16' or 'bfloat16'.
        loss_scale: arguments of torch's ``GradScaler``, e.g. ``dict(init_scale=1024.0)``.
        **kwargs: as of MMEngine's ``OptimWrapper``.

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
    """Let Adam and AdamW step in one pass over the weights, where torch can and nobody chose."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return
    devices = {p.device.type for group in optimizer.param_groups for p in group['params']}
    if not devices <= {'cpu', 'cuda'} or digit_version(torch.__version__) < digit_version('2.4'):
        return  # before, there is none for CPUs, and the one for GPUs refuses some layouts
    for group in optimizer.param_groups:
        if group['fused'] is None and group['foreach'] is None:
            group['fused'] = True
