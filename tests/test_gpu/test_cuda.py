"""Results of a GPU against float64 on the CPU; optimiser steps, averages and layouts on a GPU."""

import copy
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dblrgan_mm.engine import ConvMuon, GuardedAmpOptimWrapper, GuardedOptimWrapper
from dblrgan_mm.models import ForeachExponentialMovingAverage
from dblrgan_mm.nn import (
    AdversarialLoss,
    ContentLoss,
    DBLRNet,
    FrameSequenceDiscriminator,
    MultiScaleDBLRNet,
)
from dblrgan_mm.nn.dblrnet import ResidualBlock

pytestmark = pytest.mark.cuda

NETWORKS = {
    'paper': lambda: DBLRNet(num_blocks=3),
    'plus': lambda: DBLRNet(num_blocks=3, norm=None, residual=True),
    'multi-scale': MultiScaleDBLRNet,
    'aligned': lambda: MultiScaleDBLRNet(align=True),
}
OPTIMISERS = {
    'Adam': lambda net: torch.optim.Adam(net.parameters(), lr=1e-3),
    'Muon': lambda net: ConvMuon(net.parameters(), lr=1e-3),
}
WRAPPERS = {
    'float32': GuardedOptimWrapper,
    'bfloat16': lambda **kwargs: GuardedAmpOptimWrapper(dtype='bfloat16', **kwargs),
}


def build(name: str) -> nn.Module:
    """Build a network whose output is not close to zero."""
    net = NETWORKS[name]()
    (net.tail if isinstance(net.tail, nn.Conv2d) else net.tail[-1]).weight.data *= 30
    return net


def weights_of(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().cpu().flatten() for p in net.parameters()])


def window(count: int = 2, side: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 5, 3, side, side), torch.rand(count, 3, side, side)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    expected = expected.detach().double()
    return float((found.detach().cpu().double() - expected).norm() / expected.norm())


@pytest.fixture
def no_wait() -> Iterator[None]:
    """Raise an error whenever the host waits for the GPU."""
    torch.cuda.set_sync_debug_mode('error')
    yield
    torch.cuda.set_sync_debug_mode('default')


class TestNumbers:
    @pytest.mark.parametrize('name', NETWORKS)
    def test_networks_and_gradients(self, no_tf32, name):
        net = build(name)
        exact = copy.deepcopy(net).double()
        net.cuda()
        blurry, sharp = window()
        restored, expected = net(blurry.cuda()), exact(blurry.double())
        # in windows of noise, the optical flow amplifies rounding
        assert relative(restored, expected) < (1e-4 if name == 'aligned' else 1e-5)
        for frames, target in ((restored, sharp.cuda()), (expected, sharp.double())):
            (frames - target).square().mean().backward()
        for (which, p), q in zip(net.named_parameters(), exact.parameters(), strict=True):
            if q.grad.norm() > 1e-9:  # zero for biases before a batch normalisation
                assert relative(p.grad, q.grad) < 1e-2, which

    @pytest.mark.parametrize('training', [True, False])
    def test_discriminator(self, no_tf32, training):
        net = FrameSequenceDiscriminator(conv_channels=((16, 16), (32, 32)), fc_channels=64)
        net.train(training)
        exact = copy.deepcopy(net).double()
        clip = torch.rand(4, 5, 3, 32, 32)
        assert relative(net.cuda()(clip.cuda()), exact(clip.double())) < 1e-4

    def test_losses(self):
        a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
        for color in ('luma', 'rgb'):
            for form in ContentLoss.FORMS:
                loss = ContentLoss(color, form)
                assert relative(loss(a.cuda(), b.cuda()), loss(a.double(), b.double())) < 1e-5
        logits = torch.randn(8, 1)
        for form in AdversarialLoss.FORMS:
            loss = AdversarialLoss(form)
            assert relative(loss(logits.cuda(), True), loss(logits, True)) < 1e-5

    @pytest.mark.parametrize('name', NETWORKS)
    def test_bfloat16(self, name):
        net = build(name).eval()
        exact = copy.deepcopy(net).double()
        blurry, _ = window()
        centre = blurry[:, 2]
        with torch.no_grad(), torch.autocast('cuda', torch.bfloat16):
            restored = net.cuda()(blurry.cuda())
        with torch.no_grad():
            expected = exact(blurry.double())
        assert relative(restored, expected) < 1e-2
        assert relative(restored.cpu() - centre, expected - centre) < 5e-2

    def test_3d_convolutions_in_bfloat16(self):
        head = DBLRNet().head
        frames = torch.rand(2, 1, 5, 64, 64)
        with torch.no_grad(), torch.autocast('cuda', torch.bfloat16):
            found = copy.deepcopy(head).cuda()(frames.cuda())
        assert relative(found, head(frames)) < 1e-2


class TestSteps:
    def step(self, net, wrapper, batch, factor: float = 1.0) -> None:
        blurry, sharp = batch
        with wrapper.optim_context(net):
            loss = ContentLoss('luma', 'charbonnier')(net(blurry), sharp)
        wrapper.update_params(loss * factor)

    @pytest.mark.parametrize('optimiser', OPTIMISERS)
    @pytest.mark.parametrize(('wrapper', 'limit'), [('float32', 0.05), ('bfloat16', 0.5)])
    def test_steps_equal_the_cpu(self, no_tf32, optimiser, wrapper, limit):
        net = build('plus')
        before = weights_of(net)
        other, batch = copy.deepcopy(net), window()
        ours = WRAPPERS['float32'](optimizer=OPTIMISERS[optimiser](other))
        self.step(other, ours, batch)
        net.cuda()
        theirs = WRAPPERS[wrapper](optimizer=OPTIMISERS[optimiser](net))
        self.step(net, theirs, [part.cuda() for part in batch])
        assert theirs.outcome == 'step'
        assert relative(weights_of(net) - before, weights_of(other) - before) < limit

    @pytest.mark.parametrize('optimiser', OPTIMISERS)
    @pytest.mark.parametrize('wrapper', WRAPPERS)
    def test_nan_loss_changes_nothing(self, optimiser, wrapper):
        net = build('plus').cuda()
        guard = WRAPPERS[wrapper](optimizer=OPTIMISERS[optimiser](net))
        batch = [part.cuda() for part in window()]
        self.step(net, guard, batch)
        weights = [p.detach().clone() for p in net.parameters()]
        states = copy.deepcopy(guard.optimizer.state_dict()['state'])
        self.step(net, guard, batch, math.nan)
        assert guard.outcome == 'non-finite'
        assert all(torch.equal(p, q) for p, q in zip(net.parameters(), weights, strict=True))
        for key, state in guard.optimizer.state_dict()['state'].items():
            assert all(torch.equal(value, states[key][name]) for name, value in state.items())
        self.step(net, guard, batch)
        assert guard.outcome == 'step'

    @pytest.mark.parametrize('optimiser', OPTIMISERS)
    @pytest.mark.parametrize('wrapper', WRAPPERS)
    def test_nothing_waits_for_the_gpu(self, optimiser, wrapper, request):
        net = build('plus').cuda()
        average = ForeachExponentialMovingAverage(net, momentum=0.1)
        guard = WRAPPERS[wrapper](optimizer=OPTIMISERS[optimiser](net))
        batch = [part.cuda() for part in window()]
        for i in range(4):
            if i == 2:  # set-up is over
                request.getfixturevalue('no_wait')
            self.step(net, guard, batch)
            average.update_parameters(net)

    def test_steps_are_fused(self):
        net = build('plus').cuda()
        wrapper = GuardedOptimWrapper(optimizer=OPTIMISERS['Adam'](net))
        assert all(group['fused'] for group in wrapper.optimizer.param_groups)

    @pytest.mark.parametrize('update_buffers', [False, True])
    def test_average(self, update_buffers):
        """The average is made on the CPU, then moved, as in a DBLRGAN."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        average = ForeachExponentialMovingAverage(net, momentum=0.25, update_buffers=update_buffers)
        net.cuda(), average.cuda()
        expected = None
        for value in (1.0, 3.0):
            with torch.no_grad():
                net[0].weight.fill_(value)
                net[1].running_mean.fill_(value)
            average.update_parameters(net)
            expected = value if expected is None else expected + 0.25 * (value - expected)
        assert average.module[0].weight.is_cuda
        assert average.module[0].weight.mean().item() == pytest.approx(expected)
        mean = average.module[1].running_mean.mean().item()
        assert mean == pytest.approx(expected if update_buffers else 3.0)


class TestLayout:
    @pytest.mark.parametrize('name', NETWORKS)
    @pytest.mark.parametrize('autocast', [False, True])
    def test_maps_stay_channels_last(self, name, autocast):
        net = build(name).cuda()
        seen = {}

        def watch(which):
            def hook(module, inputs, maps):
                seen[which] = maps
                maps.register_hook(lambda gradient: seen.update({f'{which}, back': gradient}))

            return hook

        for which, module in net.named_modules():
            if isinstance(module, (ResidualBlock, nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_hook(watch(which))
        with torch.autocast('cuda', torch.bfloat16, enabled=autocast):
            restored = net(window()[0].cuda())
        restored.float().square().mean().backward()
        wrong = [
            which
            for which, maps in seen.items()
            if not maps.is_contiguous(memory_format=torch.channels_last)
        ]
        assert len(seen) > 10
        assert wrong == []


def test_a_checkpoint_is_read_on_the_cpu(tmp_path):
    net = build('plus').cuda()
    torch.save(dict(state_dict={f'generator.{k}': v for k, v in net.state_dict().items()}),
               tmp_path / 'net.pth')  # fmt: skip
    from dblrgan_mm.inference.checkpoint import load_generator

    weights = load_generator(tmp_path / 'net.pth').state_dict
    assert all(not value.is_cuda for value in weights.values())
