"""Optimiser wrappers that leave out a step that would spoil the weights."""

import contextlib
import math
from collections.abc import Iterator

import torch
from mmagic.registry import OPTIM_WRAPPERS
from mmengine.optim import OptimWrapper
from torch import nn

from dblrgan_mm.engine.processes import any_process


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(OptimWrapper):
    """MMEngine's ``OptimWrapper`` that skips a step whose loss or gradient is not finite.

    All processes skip alike: a loss that is not finite makes the gradient so, and that is summed
    over the processes. ``NonFiniteHook`` reports skipped steps and ends the run after too many.

    Args:
        **kwargs: as of MMEngine's.

    Attributes:
        outcome: what became of the last iteration: 'step', 'non-finite' or 'overflow' (of mixed
            precision, which the next loss scale may mend), or None where gradients are still
            being summed up.
        skipped: steps skipped so far, {'non-finite': count, 'overflow': count}; in checkpoints.
        in_a_row: of those that were not finite, how many came last, without a step between.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.outcome: str | None = None
        self.skipped = {'non-finite': 0, 'overflow': 0}
        self.in_a_row = 0
        self._finite_losses = True

    def update_params(self, loss: torch.Tensor, **kwargs) -> None:
        """As MMEngine's; a loss that is not finite gives a gradient of NaN."""
        self.outcome = None
        finite = bool(loss.isfinite())
        self._finite_losses &= finite
        super().update_params(loss if finite else loss * math.nan, **kwargs)

    def step(self, **kwargs) -> None:
        """Step if all gradients are finite."""
        if self._gradient_norm().isfinite():
            self.outcome, self.in_a_row = 'step', 0
            if self.clip_grad_kwargs:
                self._clip_grad()
            self._step(**kwargs)
        elif self._may_overflow() and not any_process(not self._finite_losses):
            self.outcome = 'overflow'
        else:
            self.outcome = 'non-finite'
            self.in_a_row += 1
        if self.outcome in self.skipped:
            self.skipped[self.outcome] += 1
        self._finite_losses = True

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
            self.in_a_row = guard['in_a_row']
            self.skipped = {name: guard[name] for name in self.skipped}
        super().load_state_dict(state_dict)


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
        self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
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
        scale = self.loss_scaler.get_scale() if self.outcome == 'non-finite' else None
        self.loss_scaler.update(scale)

    def _step(self, **kwargs) -> None:
        self.loss_scaler.step(self.optimizer, **kwargs)

    def _may_overflow(self) -> bool:
        return self.loss_scaler.get_scale() > 1

    def state_dict(self) -> dict:
        return {**super().state_dict(), 'loss_scaler': self.loss_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        state_dict = dict(state_dict)
        scaler = state_dict.pop('loss_scaler', None)
        if scaler:
            self.loss_scaler.load_state_dict(scaler)
        super().load_state_dict(state_dict)
