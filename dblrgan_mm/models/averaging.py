"""An average of weights that a GPU need not be waited for."""

import torch
from mmagic.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from torch import nn


@MODELS.register_module()
class ForeachExponentialMovingAverage(ExponentialMovingAverage):
    """MMEngine's ``ExponentialMovingAverage``, updated in one pass.

    MMEngine's goes through the weights one by one, and where it is part of a model on a GPU it asks
    twice for the number of its updates, each time waiting for all that the GPU has to do. The
    averages are the same.

    Args:
        model, momentum, interval, device, update_buffers: as of MMEngine's.
    """

    def __init__(self, model: nn.Module, *args, **kwargs) -> None:
        super().__init__(model, *args, **kwargs)
        self._known_steps: int | None = None  # what the buffer `steps` holds
        self.register_load_state_dict_post_hook(_read_steps_again)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take a model's weights into the average; the first time they become the average."""
        if self._known_steps is None:
            self._known_steps = self.steps.item()
        source, target = (
            net.state_dict() if self.update_buffers else dict(net.named_parameters())
            # MMEngine's avg_parameters stay where the buffers were before a move to a device
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
