"""The Muon optimiser for convolutional networks."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmagic.registry import OPTIMIZERS
from torch import nn

_NARROW = 8  # channels; AdamW updates layers with at most this many, in or out
_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients from Jordan et al.


@OPTIMIZERS.register_module()
class ConvMuon(torch.optim.AdamW):
    """Muon for the hidden layers of a convolutional network, AdamW for its other parameters.

    Muon orthogonalises the update of a weight matrix (Jordan et al., "Muon: An optimizer for hidden
    layers in neural networks", 2024). A convolution's weight is treated as the matrix (out, in x
    k x k). Updates are scaled as in Liu et al., "Muon is scalable for LLM training", 2025, so that
    learning rates for AdamW can be used. AdamW updates biases and layers with at most 8 input or
    output channels, such as the first and the last layer. This rule is our own.

    torch's ``Muon`` takes matrices only. timm's takes convolutions, but computes in bfloat16, which
    takes 2.4 times as long as float32 on a CPU without bfloat16 instructions. Here matrices of the
    same shape are updated together, and the iteration works on the small product X X^T.

    Args:
        params: the network's parameters, without parameter groups.
        lr: learning rate of Muon and AdamW.
        momentum: Nesterov momentum of Muon.
        betas: betas of AdamW.
        weight_decay: weight decay of Muon and AdamW.
        **kwargs: further arguments of torch's ``AdamW``.

    Raises:
        ValueError: for parameter groups, which MMEngine's ``paramwise_cfg`` creates.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        hidden: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for parameter in params:
            if isinstance(parameter, dict):
                raise ValueError(
                    'ConvMuon creates its own parameter groups: leave paramwise_cfg out'
                )
            wide = parameter.ndim > 1 and min(parameter.shape[:2]) > _NARROW
            (hidden if wide else others).append(parameter)
        groups: list[dict[str, Any]] = [
            dict(params=hidden, momentum=momentum),
            dict(params=others, momentum=None),
        ]
        groups = [group for group in groups if group['params']]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, **kwargs)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> Any:
        """Update all parameters, unless ``found_inf`` is set to a tensor above 0."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if group['momentum'] is None]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group['momentum'] is not None:
                self._step_hidden(group)
        return loss

    def _step_hidden(self, group: dict[str, Any]) -> None:
        by_shape = defaultdict(list)
        for parameter in group['params']:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        skipped = getattr(self, 'found_inf', None)  # as in torch's fused optimisers
        for shape, parameters in by_shape.items():
            states = [self.state[parameter] for parameter in parameters]
            for parameter, state in zip(parameters, states, strict=True):
                if not state:
                    state['step'] = torch.zeros((), device=parameter.device)  # AdamW expects it
                    state['momentum_buffer'] = torch.zeros_like(parameter)
                state['step'] += 1 if skipped is None else 1 - skipped
            before = [state['momentum_buffer'] for state in states]
            gradients = [parameter.grad for parameter in parameters]
            after = torch._foreach_lerp(before, gradients, 1 - group['momentum'])
            updates = torch._foreach_lerp(gradients, after, group['momentum'])
            matrices = torch.stack([update.flatten(1) for update in updates])
            rows, columns = matrices.shape[1:]
            size = group['lr'] * 0.2 * max(rows, columns) ** 0.5
            decay = group['lr'] * group['weight_decay']
            for parameter, update, old, new in zip(
                parameters, orthogonal(matrices), before, after, strict=True
            ):
                update = -size * update.view(shape) - decay * parameter
                if skipped is not None:
                    update = torch.where(skipped > 0, 0.0, update)
                    new = torch.where(skipped > 0, old, new)
                old.copy_(new)
                parameter.add_(update)


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return roughly the nearest orthogonal matrices: singular values become about 0.7 to 1.2.

    The Newton-Schulz iteration of Jordan et al. is ``X <- (a + b A + c A^2) X`` with ``A = X X^T``.
    All steps together are a polynomial of the first A, times X. The steps therefore only multiply
    square matrices whose size is the smaller side of X.

    Args:
        matrices: (n, rows, columns), float32.
        steps: number of iterations.
    """
    transposed = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if transposed else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _QUINTIC
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    product, total = x @ x.mT, None
    for step in range(steps):
        factor = a * identity + b * product + c * (product @ product)
        total = factor if total is None else factor @ total
        if step + 1 < steps:
            product = factor @ product @ factor
    x = total @ x
    return x.mT if transposed else x
