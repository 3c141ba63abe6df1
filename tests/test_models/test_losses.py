import numpy as np
import pytest
import torch

from dblrgan_mm.nn import AdversarialLoss, ContentLoss, rgb_to_luma

LOGITS = torch.tensor([[-2.0], [0.5], [3.0]])
PROBABILITY = torch.sigmoid(LOGITS)


class TestContentLoss:
    def test_is_the_mean_squared_error(self, real_clip):
        blurry, sharp = real_clip['blurry'][:2], real_clip['sharp'][:2]
        error = (blurry - sharp).square().mean()
        torch.testing.assert_close(ContentLoss()(blurry, sharp), error)
        luma_error = (rgb_to_luma(blurry) - rgb_to_luma(sharp)).square().mean()
        torch.testing.assert_close(ContentLoss('luma')(blurry, sharp), luma_error)
        torch.testing.assert_close(ContentLoss(loss_weight=3.0)(blurry, sharp), 3 * error)

    @pytest.mark.parametrize('color', ['rgb', 'luma'])
    def test_charbonnier(self, real_clip, color):
        blurry, sharp = real_clip['blurry'][:2], real_clip['sharp'][:2]
        error = blurry - sharp if color == 'rgb' else rgb_to_luma(blurry) - rgb_to_luma(sharp)
        close = ContentLoss(color, 'charbonnier', loss_weight=2.0)(blurry, sharp)
        torch.testing.assert_close(close, 2 * torch.hypot(error, torch.tensor(1e-3)).mean())

    def test_charbonnier_gradient_is_finite_at_zero_error(self):
        frame = torch.zeros(1, 3, 4, 4, requires_grad=True)
        ContentLoss(form='charbonnier')(frame, torch.zeros(1, 3, 4, 4)).backward()
        assert torch.equal(frame.grad, torch.zeros(1, 3, 4, 4)), 'no 0 / 0 where all is right'

    @pytest.mark.parametrize('color', ['rgb', 'luma'])
    def test_spectrum(self, real_clip, color):
        blurry, sharp = real_clip['blurry'][:2], real_clip['sharp'][:2]
        error = blurry - sharp if color == 'rgb' else rgb_to_luma(blurry) - rgb_to_luma(sharp)
        spectrum = np.fft.rfft2(error.numpy(), norm='ortho')
        expected = (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
        added = ContentLoss(color, spectrum_weight=10.0)(blurry, sharp) - ContentLoss(color)(
            blurry, sharp
        )
        assert added.item() == pytest.approx(10 * expected, rel=1e-4)

    def test_luma_ignores_chroma(self):
        frame = torch.rand(1, 3, 6, 6)
        other = frame + torch.tensor([0.587, -0.299, 0.0]).view(3, 1, 1)
        assert ContentLoss('luma')(frame, other) < 1e-10
        assert ContentLoss('rgb')(frame, other) > 0.1

    def test_half_precision_is_compared_in_float32(self):
        loss = ContentLoss()(torch.rand(1, 3, 8, 8).half(), torch.rand(1, 3, 8, 8))
        assert loss.dtype == torch.float32

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match=r"\(1, 3, 8, 8\).*\(1, 5, 3, 8, 8\).*gt='centre'"):
            ContentLoss()(torch.rand(1, 3, 8, 8), torch.rand(1, 5, 3, 8, 8))

    def test_unknown_color(self):
        with pytest.raises(ValueError, match="got 'hsv'"):
            ContentLoss('hsv')
        with pytest.raises(ValueError, match="mse, charbonnier, got 'ssim'"):
            ContentLoss(form='ssim')
        with pytest.raises(ValueError, match='spectrum_weight must not be negative, got -1'):
            ContentLoss(spectrum_weight=-1.0)


class TestAdversarialLoss:
    @pytest.mark.parametrize(
        ('form', 'expected'),
        [
            ('saturating', torch.log(1 - PROBABILITY).mean()),
            ('non_saturating', -torch.log(PROBABILITY).mean()),
            ('least_squares', (LOGITS - 1).square().mean()),
            ('hinge', -LOGITS.mean()),
        ],
    )
    def test_generator(self, form, expected):
        loss = AdversarialLoss(form, loss_weight=0.5)(LOGITS, target_is_real=True)
        torch.testing.assert_close(loss, 0.5 * expected)

    @pytest.mark.parametrize(
        ('form', 'real', 'fake'),
        [
            ('saturating', -torch.log(PROBABILITY), -torch.log(1 - PROBABILITY)),
            ('non_saturating', -torch.log(PROBABILITY), -torch.log(1 - PROBABILITY)),
            ('least_squares', (LOGITS - 1).square(), LOGITS.square()),
            ('hinge', (1 - LOGITS).clamp(min=0), (1 + LOGITS).clamp(min=0)),
        ],
    )
    def test_discriminator(self, form, real, fake):
        loss = AdversarialLoss(form, loss_weight=0.5)  # the weight applies to the generator only
        torch.testing.assert_close(loss(LOGITS, True, is_disc=True), real.mean())
        torch.testing.assert_close(loss(LOGITS, False, is_disc=True), fake.mean())

    @pytest.mark.parametrize('form', AdversarialLoss.FORMS)
    def test_gradient_signs_of_generator_and_discriminator(self, form):
        loss = AdversarialLoss(form)

        def slope(*arguments, **keywords):
            logits = torch.full((1, 1), 0.5, requires_grad=True)
            loss(logits, *arguments, **keywords).backward()
            return logits.grad.item()

        assert slope(True) < 0  # the generator raises the logit
        assert slope(True, is_disc=True) < 0
        assert slope(False, is_disc=True) > 0

    @pytest.mark.parametrize('form', AdversarialLoss.FORMS)
    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
    def test_extreme_logits_stay_finite(self, form, dtype):
        for value in (-200.0, 200.0):
            logits = torch.full((2, 1), value, dtype=dtype, requires_grad=True)
            loss = AdversarialLoss(form)(logits, True)
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(logits.grad).all()

    def test_errors(self):
        with pytest.raises(ValueError, match=r"saturating, .*, got 'wgan'"):
            AdversarialLoss('wgan')
        with pytest.raises(ValueError, match='target_is_real=True'):
            AdversarialLoss()(LOGITS, target_is_real=False)
