"""Content loss and adversarial loss."""

import torch
from torch import nn
from torch.nn import functional as F

from dblrgan_mm.nn.color import rgb_to_luma


class ContentLoss(nn.Module):
    """Mean squared error over the pixels, the paper's content loss, or Charbonnier loss.

    MMagic's ``CharbonnierLoss`` can only compare RGB. A loss of the spectrum can be added, in which
    the small errors of high frequencies count more than in a loss of the pixels (Cho et al.,
    "Rethinking Coarse-to-Fine Approach in Single Image Deblurring", ICCV 2021; there, at several
    scales).

    Args:
        color: 'rgb' compares all three channels; 'luma' compares only Y (BT.601), for a network
            that restores only luma, as ``DBLRNet`` does by default.
        form: loss of a pixel with error e: 'mse' is e^2; 'charbonnier' is sqrt(e^2 + 1e-6)
            (Charbonnier et al., 1994; the constant is that of Lai et al., LapSRN, 2017).
        spectrum_weight: factor of the additional loss, the mean absolute value of the real and
            imaginary parts of the error's 2D Fourier transform, which is scaled to be orthonormal.
        loss_weight: factor of the result.

    Raises:
        ValueError: for another ``color`` or ``form``, a negative ``spectrum_weight``, or if the
            shapes differ.

    Example:
        >>> ContentLoss()(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
        tensor(1.)
    """

    FORMS = ('mse', 'charbonnier')

    def __init__(
        self,
        color: str = 'rgb',
        form: str = 'mse',
        spectrum_weight: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if color not in ('luma', 'rgb'):
            raise ValueError(f"color must be 'luma' or 'rgb', got {color!r}")
        if form not in self.FORMS:
            raise ValueError(f'form must be one of {", ".join(self.FORMS)}, got {form!r}')
        if not spectrum_weight >= 0:
            raise ValueError(f'spectrum_weight must not be negative, got {spectrum_weight}')
        self.color = color
        self.form = form
        self.spectrum_weight = spectrum_weight
        self.loss_weight = loss_weight

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of restored and sharp frames (..., 3, h, w), RGB in [0, 1]."""
        if pred.shape != target.shape:
            raise ValueError(
                f'restored frames {tuple(pred.shape)} and sharp frames {tuple(target.shape)} '
                "differ in shape; a content loss needs the window's centre frame (gt='centre')"
            )
        difference = pred.float() - target.float()
        if self.color == 'luma':
            difference = rgb_to_luma(difference)
        error = difference.square()
        if self.form == 'charbonnier':
            error = (error + 1e-6).sqrt()
        loss = error.mean()
        if self.spectrum_weight > 0:
            spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm='ortho'))
            loss = loss + self.spectrum_weight * spectrum.abs().mean()
        return self.loss_weight * loss


class AdversarialLoss(nn.Module):
    """Adversarial loss on a discriminator's logits, with the interface of MMagic's ``GANLoss``.

    With D the discriminator's probability of 'sharp', the generator minimises:

    - 'saturating': log(1 - D(restored)), the paper's form (Goodfellow et al., 2014, eq. 1);
    - 'non_saturating': -log D(restored) (ibid., section 3);
    - 'least_squares': (logit - 1)^2 (Mao et al., 2017, with labels 0 and 1);
    - 'hinge': -logit (Lim and Ye, 2017).

    The discriminator minimises the matching cross-entropy, squared or hinge loss.

    Args:
        form: one of the four names.
        loss_weight: alpha, a factor of the generator's loss only.

    Raises:
        ValueError: for another ``form``.

    Example:
        >>> AdversarialLoss('hinge')(torch.tensor([[2.0]]), target_is_real=True)
        tensor(-2.)
    """

    FORMS = ('saturating', 'non_saturating', 'least_squares', 'hinge')

    def __init__(self, form: str = 'saturating', loss_weight: float = 1.0) -> None:
        super().__init__()
        if form not in self.FORMS:
            raise ValueError(f'form must be one of {", ".join(self.FORMS)}, got {form!r}')
        self.form = form
        self.loss_weight = loss_weight

    def forward(
        self, logits: torch.Tensor, target_is_real: bool, is_disc: bool = False
    ) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            logits: the discriminator's logits, (n, 1) or any other shape.
            target_is_real: for the discriminator, whether these are sharp clips; always True for
                the generator, whose frames should be classified as sharp.
            is_disc: whether to return the discriminator's loss or the generator's.
        """
        logits = logits.float()
        if is_disc:
            return self._discriminator_loss(logits, target_is_real)
        if not target_is_real:
            raise ValueError("the generator's loss needs target_is_real=True")
        return self.loss_weight * self._generator_loss(logits)

    def _discriminator_loss(self, logits: torch.Tensor, real: bool) -> torch.Tensor:
        if self.form == 'least_squares':
            return (logits - float(real)).square().mean()
        sign = -1.0 if real else 1.0
        if self.form == 'hinge':
            return F.relu(1 + sign * logits).mean()
        return F.softplus(sign * logits).mean()  # binary cross-entropy with logits

    def _generator_loss(self, logits: torch.Tensor) -> torch.Tensor:
        if self.form == 'saturating':
            return -F.softplus(logits).mean()  # log(1 - sigmoid(logit))
        if self.form == 'non_saturating':
            return F.softplus(-logits).mean()
        if self.form == 'least_squares':
            return (logits - 1).square().mean()
        return -logits.mean()
