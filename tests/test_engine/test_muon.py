import copy
import io

import pytest
import torch
from mmagic.registry import OPTIMIZERS
from torch import nn

from dblrgan_mm.engine import ConvMuon, GuardedOptimWrapper
from dblrgan_mm.engine.muon import orthogonal


def newton_schulz(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The iteration as given by Jordan et al."""
    x = matrix / matrix.norm()
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 2), nn.Conv2d(10, 1, 3),
    )  # fmt: skip


def losses(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    x = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    found = []
    for _ in range(steps):
        loss = (net(x) - 0.3).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


class TestOrthogonal:
    @pytest.mark.parametrize('shape', [(12, 40), (40, 12), (16, 16)])
    def test_equals_the_reference_iteration(self, shape):
        matrices = torch.randn(3, *shape, dtype=torch.float64)
        expected = torch.stack(
            [newton_schulz(m) if shape[0] <= shape[1] else newton_schulz(m.T).T for m in matrices]
        )
        torch.testing.assert_close(orthogonal(matrices), expected, rtol=0, atol=1e-6)

    def test_singular_values_come_near_one(self):
        values = torch.linalg.svdvals(orthogonal(torch.randn(4, 24, 216)))
        assert 0.5 < values.min() < values.max() < 1.3

    def test_zero_stays_zero(self):
        assert torch.equal(orthogonal(torch.zeros(1, 9, 9)), torch.zeros(1, 9, 9))


class TestConvMuon:
    def test_is_built_by_name(self, net):
        optimizer = OPTIMIZERS.build(dict(type='ConvMuon', params=net.parameters(), lr=1e-3))
        assert isinstance(optimizer, ConvMuon)

    def test_groups_of_parameters(self, net):
        with pytest.raises(ValueError, match='leave paramwise_cfg out'):
            ConvMuon([dict(params=list(net.parameters()))])

    def test_only_updates_of_hidden_layers_are_orthogonal(self, net):
        optimizer = ConvMuon(net.parameters(), lr=0.1)
        before = copy.deepcopy(net)
        losses(net, optimizer, 1)
        hidden = {'2.weight', '4.weight'}
        for (name, new), old in zip(net.named_parameters(), before.parameters(), strict=True):
            step = (new - old).detach()
            assert step.abs().max() > 0
            if name in hidden:
                matrix = step.flatten(1) / (0.1 * 0.2 * max(step.flatten(1).shape) ** 0.5)
                assert torch.linalg.svdvals(matrix).max() < 1.3
            else:  # the size of the first step of AdamW is the learning rate
                assert step.abs().max() == pytest.approx(0.1, rel=1e-2)

    def test_learns(self, net):
        found = losses(net, ConvMuon(net.parameters(), lr=3e-3), 40)
        assert found[-1] < 0.05 * found[0]

    def test_resumes_exactly(self, net):
        optimizer = ConvMuon(net.parameters(), lr=3e-3, weight_decay=0.01)
        losses(net, optimizer, 3)
        file = io.BytesIO()
        torch.save((net.state_dict(), optimizer.state_dict()), file)
        expected = losses(net, optimizer, 5)
        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        net.load_state_dict(weights)
        resumed = ConvMuon(net.parameters(), lr=3e-3)
        resumed.load_state_dict(state)
        assert losses(net, resumed, 5) == expected

    def test_non_finite_gradient_is_skipped(self, net):
        """GuardedOptimWrapper uses fused AdamW, which gets a flag for bad gradients."""
        optimizer = ConvMuon(net.parameters(), lr=3e-3)
        wrapper = GuardedOptimWrapper(optimizer=optimizer)
        x = torch.randn(1, 3, 16, 16)
        wrapper.update_params(net(x).square().mean())
        before = copy.deepcopy((net.state_dict(), optimizer.state_dict()['state']))
        wrapper.update_params(net(x).square().mean() * float('nan'))
        assert wrapper.outcome == 'non-finite'
        torch.testing.assert_close((net.state_dict(), optimizer.state_dict()['state']), before)
        wrapper.update_params(net(x).square().mean())
        assert wrapper.outcome == 'step'
        assert not torch.equal(net.state_dict()['2.weight'], before[0]['2.weight'])
