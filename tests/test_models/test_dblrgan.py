import functools
from copy import deepcopy

import pytest
import torch
from mmagic.registry import MODELS
from mmagic.structures import DataSample
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from dblrgan_mm.engine import GuardedAmpOptimWrapper, GuardedOptimWrapper
from dblrgan_mm.models import DBLRGAN, AdversarialLoss, ContentLoss

CONFIG = dict(
    type='DBLRGAN',
    generator=dict(type='DBLRNet', mid_channels=8, num_blocks=2, norm=None, residual=True),
    discriminator=dict(
        type='FrameSequenceDiscriminator',
        num_frames=5,
        conv_channels=((8, 8), (16, 16)),
        fc_channels=16,
    ),
    pixel_loss=dict(type='ContentLoss', color='luma'),
    gan_loss=dict(type='AdversarialLoss', loss_weight=2e-4),
    data_preprocessor=dict(type='DataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
)


def build(**changes) -> DBLRGAN:
    return MODELS.build({**deepcopy(CONFIG), **changes}).train()


def optimisers(model, lr=1e-3, kind=OptimWrapper) -> OptimWrapperDict:
    parts = ('generator', 'discriminator')
    return OptimWrapperDict(
        **{
            name: kind(optimizer=torch.optim.Adam(getattr(model, name).parameters(), lr=lr))
            for name in parts
        }
    )


@pytest.fixture
def batch(real_clip) -> dict:
    """Two training windows as from the data loader: RGB in [0, 255], 32x32 pixels."""
    samples, inputs = [], []
    for first, top in ((0, 20), (4, 80)):
        crop = (slice(first, first + 5), slice(None), slice(top, top + 32), slice(40, 72))
        sample = DataSample()
        sample.set_metainfo(dict(img_channel_order='rgb', gt_channel_order='rgb'))
        sample.set_tensor_data(dict(gt_img=(255 * real_clip['sharp'][crop]).round()))
        samples.append(sample)
        inputs.append((255 * real_clip['blurry'][crop]).round())
    return dict(inputs=inputs, data_samples=samples)


def step(model, optim, batch) -> dict:
    return model.train_step(deepcopy(batch), optim)


def weights(module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def changed(module, before) -> bool:
    return any((p != q).any() for p, q in zip(module.parameters(), before, strict=True))


class TestJudgedClips:
    def test_only_the_centre_differs(self, real_clip):
        sharp, restored = real_clip['sharp'][None, :5], real_clip['blurry'][None, 2]
        fake, real = build().judged_clips(restored, sharp)
        assert torch.equal(real, sharp)
        assert torch.equal(fake[:, 2], restored)
        for t in (0, 1, 3, 4):
            assert torch.equal(fake[:, t], sharp[:, t])

    def test_fewer_frames_than_the_window(self, real_clip):
        discriminator = dict(CONFIG['discriminator'], num_frames=3)
        sharp, restored = real_clip['sharp'][None, :5], real_clip['blurry'][None, 2]
        fake, real = build(discriminator=discriminator).judged_clips(restored, sharp)
        assert torch.equal(real, sharp[:, 1:4])
        assert torch.equal(fake[:, 1], restored)

    @pytest.mark.parametrize('frames_of_gt', [1, 5])
    def test_one_frame(self, frames_of_gt, real_clip):
        discriminator = dict(CONFIG['discriminator'], num_frames=1)
        sharp = real_clip['sharp'][None, 2] if frames_of_gt == 1 else real_clip['sharp'][None, :5]
        restored = real_clip['blurry'][None, 2]
        fake, real = build(discriminator=discriminator).judged_clips(restored, sharp)
        assert torch.equal(fake, restored[:, None])
        assert torch.equal(real, real_clip['sharp'][None, 2:3])

    def test_image_discriminator_gets_images(self, real_clip):
        discriminator = dict(
            type='PatchDiscriminator', in_channels=3, base_channels=8, num_conv=2,
            norm_cfg=dict(type='BN'), init_cfg=dict(type='normal', gain=0.02),
        )  # fmt: skip
        model = build(discriminator=discriminator)
        restored = real_clip['blurry'][None, 2]
        fake, real = model.judged_clips(restored, real_clip['sharp'][None, :5])
        assert torch.equal(fake, restored)
        assert torch.equal(real, real_clip['sharp'][None, 2])
        assert torch.isfinite(model.generator_losses(fake, real)['loss_gan'])

    def test_too_few_sharp_frames(self, real_clip):
        with pytest.raises(ValueError, match=r"clips of 5 frames.*gives 1 .*gt='window'"):
            build().judged_clips(real_clip['blurry'][None, 2], real_clip['sharp'][None, 2])


class TestGeneratorStepRestoresDiscriminator:
    """A step of the generator temporarily sets the discriminator to evaluation mode."""

    def test_weights_frozen_by_the_user_stay_frozen(self, batch):
        model = build()
        first, *others = model.discriminator.parameters()
        first.requires_grad_(False)
        step(model, optimisers(model), batch)
        assert not first.requires_grad
        assert all(p.requires_grad for p in others)

    def test_mode_and_gradients_are_restored_after_an_error(self, batch, monkeypatch):
        model = build()

        def fail(*arguments, **keywords):
            raise RuntimeError('out of memory')

        monkeypatch.setattr(model.discriminator, 'forward', fail)
        with pytest.raises(RuntimeError, match='out of memory'):
            step(model, optimisers(model), batch)
        assert all(p.requires_grad for p in model.discriminator.parameters())
        assert all(module.training for module in model.discriminator.modules())


class TestTrainStep:
    def test_both_networks_change_and_losses_are_logged(self, batch):
        model = build()
        optim = optimisers(model)
        before = weights(model.generator), weights(model.discriminator)
        log = step(model, optim, batch)
        assert set(log) == {
            'loss_pix', 'loss_gan', 'loss_disc_real', 'loss_disc_fake', 'disc_accuracy',
        }  # fmt: skip
        assert changed(model.generator, before[0])
        assert changed(model.discriminator, before[1])
        assert model.step_counter == 1

    def test_loss_of_the_generator_is_content_plus_adversarial(self, batch):
        """The gradient equals that of the formula, written out here."""
        model = build()
        data = model.data_preprocessor(deepcopy(batch), True)
        blurry, sharp = data['inputs'], data['data_samples'].gt_img
        losses = model.generator_losses(model.generator(blurry), sharp)
        sum(losses.values()).backward()
        gradient = [p.grad.clone() for p in model.generator.parameters()]

        model.zero_grad()
        model.discriminator.eval()
        restored = model.generator(blurry)
        clip = torch.cat([sharp[:, :2], restored[:, None], sharp[:, 3:]], dim=1)
        probability = torch.sigmoid(model.discriminator(clip))
        weight = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        luma_error = ((restored - sharp[:, 2]) * weight).sum(1)
        (luma_error.square().mean() + 2e-4 * torch.log(1 - probability).mean()).backward()
        for p, q in zip(model.generator.parameters(), gradient, strict=True):
            torch.testing.assert_close(p.grad, q, atol=1e-6, rtol=1e-4)

    def test_generator_step_does_not_change_the_discriminator(self, batch):
        model = build()
        data = model.data_preprocessor(deepcopy(batch), True)
        blurry, sharp = data['inputs'], data['data_samples'].gt_img
        buffers = [b.clone() for b in model.discriminator.buffers()]
        restored = model.generator(blurry)
        model.generator_losses(restored, sharp)
        for b, c in zip(model.discriminator.buffers(), buffers, strict=True):
            assert torch.equal(b, c)  # only the discriminator's step updates the running statistics
        assert model.discriminator.training
        losses = model.discriminator_losses(restored, sharp)
        (losses['loss_disc_real'] + losses['loss_disc_fake']).backward()
        assert all(p.grad is None for p in model.generator.parameters())

    def test_content_loss_falls_on_a_real_batch(self, batch):
        model = build()
        optim = optimisers(model)
        first = step(model, optim, batch)['loss_pix']
        for _ in range(60):
            last = step(model, optim, batch)['loss_pix']
        data = model.data_preprocessor(deepcopy(batch), True)
        nothing = ContentLoss('luma')(data['inputs'][:, 2], data['data_samples'].gt_img[:, 2])
        assert last < first
        assert last < nothing  # better than the blurry frame itself

    def test_mmagic_losses_can_be_used(self, batch):
        model = build(
            pixel_loss=dict(type='CharbonnierLoss'),
            gan_loss=dict(type='GANLoss', gan_type='vanilla', loss_weight=1e-3),
        )
        log = step(model, optimisers(model), batch)
        assert all(torch.isfinite(torch.as_tensor(value)) for value in log.values())


class TestWarmUp:
    def test_generator_first_then_discriminator_then_both(self, batch):
        model = build(train_cfg=dict(gen_init_steps=1, disc_init_steps=1))
        optim = optimisers(model)
        moved = []
        for _ in range(3):
            before = weights(model.generator), weights(model.discriminator)
            step(model, optim, batch)
            moved.append(
                (changed(model.generator, before[0]), changed(model.discriminator, before[1]))
            )
        assert moved == [(True, False), (False, True), (True, True)]

    def test_step_counter_is_stored_in_the_checkpoint(self, batch):
        model = build(train_cfg=dict(gen_init_steps=2))
        step(model, optimisers(model), batch)
        other = build(train_cfg=dict(gen_init_steps=2))
        other.load_state_dict(model.state_dict())
        assert other.step_counter == 1
        assert 'loss_gan' not in step(other, optimisers(other), batch)
        assert 'loss_gan' in step(other, optimisers(other), batch)


class _CountWaits(TorchDispatchMode):
    """Counts reads of tensor values, each of which would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('amp', [False, True])
def test_no_step_waits_for_a_gpu(amp, batch):
    """Nothing waits between the first step, which reads the counter, and the log."""
    model = build(ema=dict(momentum=0.1), train_cfg=dict(gen_init_steps=1))
    kind = functools.partial(GuardedAmpOptimWrapper, dtype='bfloat16') if amp else None
    optim = optimisers(model, kind=kind or GuardedOptimWrapper)
    step(model, optim, batch)
    ready = model.data_preprocessor(deepcopy(batch), True)  # reads sizes, on the CPU
    model.data_preprocessor.forward = lambda data, training: ready
    with _CountWaits() as waits:
        for _ in range(2):
            log = model.train_step(batch, optim)
        assert waits.count == 0
        assert log['loss_disc_real'] > 0
        assert waits.count == 1
        assert optim['generator'].outcome == 'step'
        assert waits.count == 1 + 3  # one for each step of the generator


class TestEma:
    def test_is_the_moving_average(self, batch):
        model = build(ema=dict(momentum=0.1))
        optim = optimisers(model)
        step(model, optim, batch)
        expected = weights(model.generator)
        for _ in range(3):
            step(model, optim, batch)
            expected = [
                0.9 * e + 0.1 * p
                for e, p in zip(expected, model.generator.parameters(), strict=True)
            ]
        for e, p in zip(expected, model.generator_ema.parameters(), strict=True):
            torch.testing.assert_close(p, e.detach(), atol=1e-6, rtol=1e-5)

    def test_is_used_in_evaluation(self, batch, real_clip):
        model = build(ema=dict(momentum=0.01))
        window = real_clip['blurry'][None, :5, :, :32, :32]
        before = model.eval().forward_tensor(window)
        torch.testing.assert_close(before, model.generator(window))  # nothing averaged yet
        model.train()
        optim = optimisers(model, lr=1e-2)
        for _ in range(3):
            step(model, optim, batch)
        model.eval()
        with torch.no_grad():
            tested = model.forward_tensor(window)
            assert torch.equal(tested, model.generator_ema(window))
            assert (tested - model.generator(window)).abs().max() > 1e-4


class TestPredict:
    def test_returns_bgr_in_255_beside_the_input(self, batch):
        model = build().eval()
        for sample in batch['data_samples']:
            sample.set_tensor_data(dict(gt_img=sample.gt_img[2]))
        outputs = model.val_step(deepcopy(batch))
        data = model.data_preprocessor(deepcopy(batch), False)
        with torch.no_grad():
            rgb = model.generator(data['inputs'])
        for output, expected in zip(outputs, rgb, strict=True):
            torch.testing.assert_close(
                output.output.pred_img, (255 * expected).clamp(0, 255).flip(0), atol=1e-3, rtol=0
            )
        assert outputs[0].input.shape == (5, 3, 32, 32)


class TestDiscriminatorLearns:
    """On fixed restored and sharp clips, the accuracy exceeds 95 %."""

    @pytest.mark.parametrize('num_frames', [1, pytest.param(5, marks=pytest.mark.slow)])
    def test_accuracy(self, num_frames, real_clip):
        model = build(discriminator=dict(CONFIG['discriminator'], num_frames=num_frames))
        blurry, sharp = [], []
        for first in range(0, 8, 2):
            for top in (0, 72):
                for left in (0, 72, 144):
                    crop = (slice(first, first + 5), slice(None), slice(top, top + 72))
                    blurry.append(real_clip['blurry'][crop][..., left : left + 72])
                    sharp.append(real_clip['sharp'][crop][..., left : left + 72])
        blurry, sharp = torch.stack(blurry), torch.stack(sharp)
        with torch.no_grad():
            restored = torch.cat([model.generator(b) for b in blurry.split(8)])
        optim = torch.optim.Adam(model.discriminator.parameters(), lr=1e-2)
        decay = torch.optim.lr_scheduler.LinearLR(optim, 1, 0.01, total_iters=120)
        for _ in range(120):
            for index in torch.randperm(len(sharp)).split(8):
                losses = model.discriminator_losses(restored[index], sharp[index])
                loss = losses['loss_disc_real'] + losses['loss_disc_fake']
                optim.zero_grad()
                loss.backward()
                optim.step()
            decay.step()
        model.eval()
        with torch.no_grad():
            fake, real = model.judged_clips(restored, sharp)
            accuracy = torch.cat([model.discriminator(real) > 0, model.discriminator(fake) < 0])
        assert accuracy.float().mean() > 0.95
        chance = F.softplus(torch.zeros(())) * 2
        assert loss < chance / 2

    def test_saturating_gradient_vanishes_when_discriminator_is_certain(self):
        """The paper's form has no gradient once the discriminator is certain; other forms do."""

        def slope(form):
            logits = torch.full((1, 1), -12.0, requires_grad=True)
            AdversarialLoss(form)(logits, True).backward()
            return logits.grad.abs().item()

        assert slope('saturating') < 1e-4 < 0.9 < slope('non_saturating')


def test_accumulated_gradients_are_those_of_a_larger_batch(batch):
    """Two batches of one window equal one batch of two; the average is updated once."""
    halves = [dict(inputs=[x], data_samples=[s]) for x, s in zip(*batch.values(), strict=True)]
    torch.manual_seed(0)
    large = build(ema=dict(momentum=0.1))
    # batch statistics differ between one and two windows, so use the running ones
    large.discriminator.eval()
    small = deepcopy(large)
    before = weights(large)
    for model, counts, batches in ((large, 1, [batch]), (small, 2, halves)):
        optim = OptimWrapperDict(
            **{
                name: GuardedOptimWrapper(
                    optimizer=torch.optim.SGD(getattr(model, name).parameters(), lr=1.0),
                    accumulative_counts=counts,
                )
                for name in ('generator', 'discriminator')
            }
        )
        for part in batches:
            step(model, optim, part)
        assert model.generator_ema.steps == 1
    for name in ('generator', 'discriminator', 'generator_ema'):
        pairs = zip(weights(getattr(small, name)), weights(getattr(large, name)), strict=True)
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    moved = max((p - q).abs().max().item() for p, q in zip(weights(large), before, strict=True))
    assert moved > 1e-3
