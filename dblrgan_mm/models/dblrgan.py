"""DBLRGAN: DBLRNet trained against a discriminator of frame sequences."""

import contextlib
from collections.abc import Iterator
from typing import cast

import torch
from mmagic.models.base_models import BaseEditModel
from mmagic.registry import MODELS
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from dblrgan_mm.models.averaging import ForeachExponentialMovingAverage
from dblrgan_mm.nn import FrameSequenceDiscriminator


@MODELS.register_module()
class DBLRGAN(BaseEditModel):
    """A generator and a discriminator, each with its own optimiser.

    The generator is trained with a content loss and an adversarial loss (Zhang et al., IEEE TIP
    28(1), 2019). The weights of the two losses are our choice, and so is the discriminator's input:
    it must distinguish the sharp clip from the same clip with the restored frame in its centre, so
    the restored frame must be consistent with its neighbours in time. A discriminator without
    ``num_frames``, such as those of MMagic, judges the restored frame alone.

    Also our choice: the discriminator gets sharp and restored clips in one batch, so that its batch
    statistics do not reveal which is which, and it uses its running statistics when the generator
    is trained.

    Args:
        generator: config of a network that maps (n, t, c, h, w) to (n, c, h, w), such as
            ``DBLRNet``.
        discriminator: config of a network that returns logits.
        pixel_loss: config of the content loss.
        gan_loss: config of the adversarial loss, ``AdversarialLoss`` or MMagic's ``GANLoss``.
        ema: arguments of MMEngine's ``ExponentialMovingAverage``, e.g. ``dict(momentum=1e-3)``, to
            average the generator's weights during training. Validation and tests use the average.
            None: no average.
        train_cfg: the first ``gen_init_steps`` iterations (default 0) train only the generator,
            with the content loss; the next ``disc_init_steps`` iterations (default 0) train only
            the discriminator. The iteration count is stored in the checkpoint.
        test_cfg: unused, part of MMagic's interface.
        init_cfg: MMEngine's initialisation config.
        data_preprocessor: config; must convert frames to RGB in [0, 1].

    In training, ``gt_img`` is the window of sharp frames (n, t, c, h, w). A single frame
    (n, c, h, w) is enough if the discriminator judges single frames.
    """

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        pixel_loss: dict,
        gan_loss: dict,
        ema: dict | None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(
            generator=generator,
            pixel_loss=pixel_loss,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            init_cfg=init_cfg,
            data_preprocessor=data_preprocessor,
        )
        self.discriminator = MODELS.build(discriminator)
        self.gan_loss = MODELS.build(gan_loss)
        self.generator_ema: ForeachExponentialMovingAverage | None = None
        if ema:
            self.generator_ema = ForeachExponentialMovingAverage(self.generator, **ema)
        train_cfg = train_cfg or {}
        self.gen_init_steps = train_cfg.get('gen_init_steps', 0)
        self.disc_init_steps = train_cfg.get('disc_init_steps', 0)
        self.judged_frames = getattr(self.discriminator, 'num_frames', None)
        self.register_buffer('step_counter', torch.tensor(0))  # iterations, saved and resumed
        self._step: int | None = None  # the same number, readable without waiting for the GPU
        self.register_load_state_dict_post_hook(_read_step_again)

    def state_dict(self, *args, destination=None, prefix='', keep_vars=False) -> dict:
        """Return the state without wrapper prefixes, the same for one process and for many.

        ``MMSeparateDistributedDataParallel`` wraps each part separately. MMEngine's runner would
        save their keys as ``generator.module.*``. MMEngine's loader unwraps the parts, so it would
        find none of these keys, and a resumed run would start from random weights.
        """
        return get_state_dict(self, destination, prefix, keep_vars)

    def forward_tensor(self, inputs: torch.Tensor, data_samples=None) -> torch.Tensor:
        """Return restored frames (n, c, h, w); outside training, by the average if it exists."""
        average = self.generator_ema
        if average is not None and not self.training and average.steps > 0:
            return average(inputs)
        return self.generator(inputs)

    def forward_train(self, inputs: torch.Tensor, data_samples=None) -> dict:
        """Return the content loss for MMagic's ``mode='loss'``; training uses ``train_step``."""
        restored = self.forward_tensor(inputs, data_samples)
        return dict(loss=self.pixel_loss(restored, self.centre_frame(data_samples.gt_img)))

    @staticmethod
    def centre_frame(sharp: torch.Tensor) -> torch.Tensor:
        """Return the centre frame of windows (n, t, c, h, w), or frames (n, c, h, w) unchanged."""
        return sharp[:, sharp.shape[1] // 2] if sharp.ndim == 5 else sharp

    def judged_clips(
        self, restored: torch.Tensor, sharp: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the two clips that the discriminator must distinguish.

        Args:
            restored: restored frames (n, c, h, w).
            sharp: sharp windows (n, t, c, h, w) or frames (n, c, h, w).

        Returns:
            The clip with the restored frame in the centre, and the sharp clip. Both are
            (n, ``discriminator.num_frames``, c, h, w), or (n, c, h, w) if the discriminator takes
            images.

        Raises:
            ValueError: if the data set gives fewer sharp frames than the discriminator judges, or
                if the difference is odd.
        """
        parts, real = self._judged_parts(restored, sharp)
        return (torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]), real

    def _judged_parts(
        self, restored: torch.Tensor, sharp: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the same as :meth:`judged_clips`, but with the first clip as a list of parts.

        The parts are the sharp frames before, the restored frame, and the sharp frames after.
        """
        count = self.judged_frames
        given = sharp.shape[1] if sharp.ndim == 5 else 1
        if count is None:
            return [restored], self.centre_frame(sharp)
        if given < count or (given - count) % 2:
            raise ValueError(
                f'the discriminator judges clips of {count} frames, but the data set gives '
                f"{given} sharp frame(s); set gt='window' and num_frames={count} or more in the "
                'training data set'
            )
        restored = restored.unsqueeze(1)
        if count == 1:
            return [restored], self.centre_frame(sharp).unsqueeze(1)
        first = (given - count) // 2
        sharp = sharp[:, first : first + count]
        before, _, after = sharp.split([count // 2, 1, count - count // 2 - 1], dim=1)
        return [before, restored, after], sharp

    def generator_losses(
        self, restored: torch.Tensor, sharp: torch.Tensor, adversarial: bool = True
    ) -> dict:
        """Return ``loss_pix`` and, if ``adversarial`` is set, ``loss_gan``."""
        losses = dict(loss_pix=self.pixel_loss(restored, self.centre_frame(sharp)))
        if adversarial:
            judge = unwrap(self.discriminator)
            with _evaluating(judge):  # use running statistics
                if isinstance(judge, FrameSequenceDiscriminator):
                    # clips in parts avoid the backward pass through the sharp frames
                    logits = judge(self._judged_parts(restored, sharp)[0])
                else:
                    logits = judge(self.judged_clips(restored, sharp)[0])
            losses['loss_gan'] = self.gan_loss(logits, target_is_real=True, is_disc=False)
        return losses

    def discriminator_losses(self, restored: torch.Tensor, sharp: torch.Tensor) -> dict:
        """Return ``loss_disc_real``, ``loss_disc_fake`` and ``disc_accuracy``.

        ``disc_accuracy``, only for the log, is the share of pairs in which the sharp clip gets the
        higher logit.
        """
        fake, real = self.judged_clips(restored.detach(), sharp)
        logits = self.discriminator(torch.cat([real, fake.to(real.dtype)]))
        logits_real, logits_fake = logits.chunk(2)
        return dict(
            loss_disc_real=self.gan_loss(logits_real, target_is_real=True, is_disc=True),
            loss_disc_fake=self.gan_loss(logits_fake, target_is_real=False, is_disc=True),
            disc_accuracy=(logits_real > logits_fake).float().mean(),
        )

    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        """Train both networks for one iteration.

        Args:
            data: a batch from the data loader.
            optim_wrapper: optimisers under the keys ``generator`` and ``discriminator``.

        Returns:
            Values for the log.
        """
        data = self.data_preprocessor(data, True)
        blurry, sharp = data['inputs'], data['data_samples'].gt_img
        if self._step is None:
            self._step = self.step_counter.item()
        step = self._step - self.gen_init_steps
        adversarial = step >= 0
        run_generator = not 0 <= step < self.disc_init_steps
        optim_g, optim_d = optim_wrapper['generator'], optim_wrapper['discriminator']
        log_vars: dict = {}

        with optim_g.optim_context(self.generator), torch.set_grad_enabled(run_generator):
            restored = self.generator(blurry)
            if run_generator:
                with _frozen(self.discriminator):
                    losses = self.generator_losses(restored, sharp, adversarial)
        if run_generator:
            loss, logged = self.parse_losses(losses)
            optim_g.update_params(loss)
            log_vars.update(logged)
            if self.generator_ema is not None and optim_g.should_update():
                self.generator_ema.update_parameters(unwrap(self.generator))

        if adversarial:
            with optim_d.optim_context(self.discriminator):
                losses = self.discriminator_losses(restored, sharp)
            loss, logged = self.parse_losses(losses)
            optim_d.update_params(loss)
            log_vars.update(logged)

        log_vars.pop('loss', None)  # only the sum of one network's losses: useless in a log
        self.step_counter += 1
        self._step += 1
        return log_vars


def _read_step_again(model: DBLRGAN, incompatible_keys: object) -> None:
    model._step = None


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode; on leaving, set each part back to its previous mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Compute no gradients of the weights; on leaving, enable again those that were enabled."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)


def unwrap(module: nn.Module) -> nn.Module:
    """Return the model inside a wrapper such as DDP, or the model itself."""
    return cast(nn.Module, module.module) if is_model_wrapper(module) else module
