"""A moving average of weights that never synchronises with the GPU."""

import torch
from mmagic.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from torch import nn


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """MMEngine's ``ExponentialMovingAverage``, updated in one pass.

    MMEngine's class updates the weights one by one. As part of a model on a GPU, it also reads its
    update counter twice per update, and each read waits for the GPU to finish all pending work. The
    averages are the same.

    Args:
        model, momentum, interval, device, update_buffers: as in MMEngine's class.
    """

    def __init__(self, model: nn.Module, *args, **kwargs) -> None:
        super().__init__(model, *args, **kwargs)
        self._known_steps: int | None = None  # value of the buffer `steps`, None if not read yet
        self.register_load_state_dict_post_hook(_read_steps_again)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Update the average with a model's weights; the first call copies them."""
        if self._known_steps is None:
            self._known_steps = self.steps.item()
        source, target = (
            net.state_dict() if self.update_buffers else dict(net.named_parameters())
            # not MMEngine's avg_parameters, which hold the old tensors after a move to a device
            for net in (model, self.module)
        )
        pairs = [(average, source[name]) for name, average in target.items()]
        if self._known_steps > 0:
            pairs = [pair for pair in pairs if pair[0].is_floating_point()]
        averages = [average.detach() for average, _ in pairs]
        weights = [weight.detach().to(average.device) for average, weight in pairs]
        if self._known_steps == 0:
            torch._foreach_copy_(averages, weights)
        elif self._known_steps % self.interval == 0:
            torch._foreach_lerp_(averages, weights, self.momentum)
        if not self.update_buffers:
            for average, current in zip(self.module.buffers(), model.buffers(), strict=True):
                average.copy_(current)
        self.steps += 1
        self._known_steps += 1


def _read_steps_again(average: ForeachExponentialMovingAverage, incompatible_keys: object) -> None:
    average._known_steps = None
