"""One training step of a GAN: Algorithm 1 of Goodfellow et al. 2014 and of Gulrajani et al. 2017 (WGAN-GP).

(https://arxiv.org/abs/1406.2661, https://arxiv.org/abs/1704.00028.) :meth:`GanStep.run` is the algorithm.

A step never waits for the device and does not depend on the number of steps before, so it can be captured as a CUDA
graph. Values that change from step to step are either in a :class:`Plan`, which the host makes, or in tensors on the
device, which the host fills before the step.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from fastgan.data import normalize
from fastgan.data.augment import random_flip
from fastgan.losses import Loss
from fastgan.regularizers import Regularizer
from fastgan.training.config import Schedule, TrainingConfig, at_step, is_scheduled
from fastgan.training.distributed import Distributed, GradientSync
from fastgan.training.ema import EMA
from fastgan.training.precision import Precision
from fastgan.training.statistics import FiniteWatch, HealthStatistics

Images = tuple[Tensor, Tensor | None]
"""This rank's images, uint8 [N, C, H, W], and their class labels, int64 [N]; None if unconditional."""

Augment = Callable[[Tensor], Tensor]


class Plan(NamedTuple):
    """The host's decisions for a step. Steps with equal plans share a CUDA graph."""

    resolution: int
    """Resolution of the real and generated images."""
    fading: bool
    """Whether the resolution is fading in."""
    batch_size: int
    """Batch size of all ranks together."""
    penalize: tuple[tuple[int, ...], ...]
    """For each discriminator update, the indices of its penalties."""
    add_scores: bool
    """Whether the step adds its logits and gradients to the health statistics."""
    add_distances: bool
    """Whether the step adds the distances between its images to the health statistics."""


class Batch(NamedTuple):
    """This rank's samples for one discriminator update."""

    real: Tensor
    """Real images [N, C, H, W] in [-1, 1]."""
    labels: Tensor | None
    """Class labels of the real images, used for fakes and interpolates too; None if unconditional."""
    latents: Tensor
    """Latents [N, latent_dim] of the fakes."""
    alpha: Tensor | None
    """Weight of the real image in each interpolate [N, 1, 1, 1]; None without a penalty."""

    def split(self, count: int) -> list["Batch"]:
        """The batch as ``count`` micro-batches."""
        columns = [[None] * count if tensor is None else tensor.chunk(count) for tensor in self]
        return [Batch(*rows) for rows in zip(*columns, strict=True)]


class Penalty(NamedTuple):
    """A gradient penalty of the discriminator, or another term of its loss.

    A lazy penalty is applied in one of every ``interval`` updates with its weight times ``interval``, so its mean
    gradient is the same (Karras et al. 2020, StyleGAN2, https://arxiv.org/abs/1912.04958, section 3.1 and appendix B).
    In StyleGAN2 the penalty has separate updates and Adam's settings are adapted; here one update combines both
    gradients, and Adam's settings stay.
    """

    function: Regularizer
    weight: Schedule
    interval: int


class Eager:
    """Runs the functions of a step as they are."""

    reuses_fakes = True
    """Whether the generator's update may reuse the fakes of the last discriminator update, and their graph."""

    def forward(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """Returns ``function(*args)``."""
        return function(*args)

    def backward(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        parameters: list[nn.Parameter],
        scaler: torch.amp.GradScaler,
        *args: Any,
    ) -> tuple[Tensor, ...]:
        """Adds the scaled gradient of the loss ``function(*args)[0]`` to ``parameters``; returns all outputs, with the
        loss detached."""
        loss, *others = function(*args)
        scaler.scale(loss).backward()
        return loss.detach(), *others


class GanStep:
    """Trains the networks by one step at a time, and keeps sums of losses and statistics on the device.

    Args:
        generator: maps latents [N, latent_dim], and labels in a conditional run, to images in [-1, 1].
        discriminator: maps images, and labels in a conditional run, to logits [N, ...].
        augment: augmentation of all images that the discriminator gets.
        optimizers: the generator's and the discriminator's.
        random: random generator for latents and interpolation weights.
        config: the settings, of which ``latent_dim``, ``accumulate``, ``flips`` and ``ema_half_life`` are used.
        draw_images: draws this rank's shard of a batch of a given size; None if :meth:`run` gets the images.
        some_unused: whether some parameters may get no gradient.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss,
        penalties: Sequence[Penalty],
        augment: Augment,
        *,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        ema: EMA,
        precision: Precision,
        random: torch.Generator,
        distributed: Distributed,
        mode: Eager,
        config: TrainingConfig,
        draw_images: Callable[[int], Images] | None,
        some_unused: bool,
    ) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.loss, self.penalties, self.augment = loss, penalties, augment
        self.mode = mode
        # A scheduled weight is a tensor, so that a captured graph follows it.
        self._weights: list[float | Tensor] = [
            torch.zeros((), device=random.device) if is_scheduled(p.weight) else p.weight * p.interval
            for p in penalties
        ]
        self._penalties = [partial(self.penalty, number) for number in range(len(penalties))]
        self.fade = torch.ones((), device=random.device)
        # Sums of the discriminator's loss, the generator's and, with penalties, all penalties.
        self.loss_sums = torch.zeros(3 if penalties else 2, device=random.device)
        self.statistics = HealthStatistics(generator, random.device)
        losses = ["discriminator_loss", "generator_loss", "penalty"][: len(self.loss_sums)]
        self.watch = FiniteWatch(losses, self.loss_sums, discriminator, generator)
        self._generator_optimizer, self._discriminator_optimizer = optimizers
        self._generator_parameters, self._discriminator_parameters = (
            [p for p in network.parameters() if p.requires_grad] for network in (generator, discriminator)
        )
        self._ema = ema
        self._precision = precision
        self._random = random
        self._distributed = distributed
        self._draw_images = draw_images
        self._config = config
        self._batch_statistics = distributed.batch_statistics(generator, discriminator)
        self._generator_sync = GradientSync(generator, distributed, some_unused=some_unused)
        # The gradient of a penalty does not reach the last bias.
        self._discriminator_sync = GradientSync(discriminator, distributed, some_unused=some_unused or bool(penalties))

    def prepare(self, step: int) -> None:
        """Fills the tensors on the device that depend on the number of steps so far."""
        self.watch.set_step(step)
        half_life = self._config.ema_half_life
        half_life = at_step(half_life, step) if half_life else None
        self._ema.set_step(step + 1, half_life=half_life)
        for weight, penalty in zip(self._weights, self.penalties, strict=True):
            if isinstance(weight, Tensor):
                weight.fill_(at_step(penalty.weight, step) * penalty.interval)

    def run(self, plan: Plan, images: Sequence[Images] = ()) -> None:
        """Runs one step; ``images`` are the real images of each discriminator update, none with ``draw_images``."""
        for update, penalize in enumerate(plan.penalize):
            batch = self.draw(plan, images[update] if images else None, bool(penalize))
            micro_batches = batch.split(self._config.accumulate)
            last = update == len(plan.penalize) - 1
            reuse_fake = last and self._config.accumulate == 1 and self.mode.reuses_fakes
            fake, logits = self.update_discriminator(micro_batches, penalize, keep_graph=reuse_fake)
            self.watch.after_discriminator(update)
        fake = self.update_generator(micro_batches, fake if reuse_fake else None)
        if plan.add_scores:
            self.statistics.add_scores(*logits)
        if plan.add_distances:
            self.statistics.add_distances(micro_batches[-1].real, fake)
        self._distributed.all_reduce_mean_(self._batch_statistics)
        self._ema.average()
        self.watch.after_generator()

    def draw(self, plan: Plan, images: Images | None, penalize: bool) -> Batch:
        """Draws a batch: real images with their labels, latents and, for a penalty, interpolation weights."""
        pixels, labels = self._draw_images(plan.batch_size) if images is None else images
        if self._config.flips:
            pixels = random_flip(pixels)
        real = at_resolution(normalize(pixels), plan.resolution, self.fade if plan.fading else None)
        latents = self.draw_latents(plan.batch_size)
        alpha = self._draw(torch.rand, plan.batch_size, 1, 1, 1) if penalize else None
        return Batch(self._precision.images(real), labels, latents, alpha)

    def draw_latents(self, batch_size: int) -> Tensor:
        """Draws this rank's latents of a batch."""
        return self._draw(torch.randn, batch_size, self._config.latent_dim)

    def _draw(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        # Each rank draws the random numbers of the whole batch and uses its shard.
        whole = draw(shape, device=self._random.device, generator=self._random, dtype=self._precision.dtype)
        return self._distributed.shard(whole)

    def update_discriminator(
        self, micro_batches: list[Batch], penalize: tuple[int, ...], *, keep_graph: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Updates the discriminator once.

        Returns:
            The fakes of the last micro-batch, with their graph if ``keep_graph``, and the logits of its real and fake
            images before the update.
        """
        scaler, sync = self._precision.discriminator_scaler, self._discriminator_sync
        self._discriminator_optimizer.zero_grad()
        for batch in micro_batches:
            with torch.set_grad_enabled(keep_graph):
                fake = self.mode.forward(self._generator_sync.of(self.generate), batch.latents, batch.labels)
            # Loss and penalties have separate backward passes: the memory of each is freed before the next.
            with sync.no_sync_unless(batch is micro_batches[-1]):
                inputs = self._discriminator_parameters, scaler, batch.real, fake.detach(), batch.labels
                loss, *logits = self.mode.backward(sync.of(self.discriminator_loss), *inputs)
                self.loss_sums[0] += loss
                for number in penalize:
                    (penalty,) = self.mode.backward(sync.of(self._penalties[number]), *inputs, batch.alpha)
                    if self._precision.scales:
                        # The inner gradients overflow until the scale has adapted; the scaler skips such an update.
                        penalty = penalty.nan_to_num(nan=0.0, posinf=0.0)
                    self.loss_sums[2] += penalty
        scaler.step(self._discriminator_optimizer)
        scaler.update()
        return fake, (logits[0], logits[1])

    def update_generator(self, micro_batches: list[Batch], fake: Tensor | None) -> Tensor:
        """Updates the generator once, on the micro-batches of the last discriminator update.

        ``fake`` are the fakes of the single micro-batch with their graph, or None to generate them again. Returns the
        fakes of the last micro-batch, detached.
        """
        scaler, sync = self._precision.generator_scaler, self._generator_sync
        # The gradient passes through the discriminator, but its weights need none.
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(False)
        self._generator_optimizer.zero_grad()
        for batch in micro_batches:
            with sync.no_sync_unless(batch is micro_batches[-1]):
                function, first = self.generator_loss, fake
                if fake is None:
                    function, first = sync.of(self.generator_loss_of_latents), batch.latents
                loss, detached = self.mode.backward(
                    function, self._generator_parameters, scaler, first, batch.real, batch.labels
                )
                self.loss_sums[1] += loss
        scaler.step(self._generator_optimizer)
        scaler.update()
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(True)
        return detached

    # The functions of a step. Each loss is divided by the number of micro-batches, so that the gradients add up to the
    # batch's.

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Fakes in [-1, 1], in the dtype of real images."""
        with self._precision.autocast():
            images = self.generator(latents, *_given(labels))
        return images.to(self._precision.dtype)

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The discriminator's logits [N, ...] of augmented images."""
        with self._precision.autocast():
            logits = self.discriminator(self.augment(images), *_given(labels))
        return logits.to(self._precision.dtype)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """The discriminator's loss without penalties, and the detached logits of real and fake images."""
        real_logits, fake_logits = self.logits(real, labels), self.logits(fake, labels)
        loss = self._share(self.loss.discriminator(real_logits, fake_logits))
        return loss, real_logits.detach(), fake_logits.detach()

    def penalty(
        self, number: int, real: Tensor, fake: Tensor, labels: Tensor | None, alpha: Tensor
    ) -> tuple[Tensor, ...]:
        """One of the penalties, such as WGAN-GP's at interpolates of real and fake images."""
        scaler = self._precision.discriminator_scaler if self._precision.scales else None
        with self._precision.autocast():
            penalty = self.penalties[number].function(
                lambda images: self.discriminator(self.augment(images), *_given(labels)),
                *(real, fake, self._weights[number]),
                alpha=alpha,
                scaler=scaler,
            )
        return (self._share(penalty),)

    def generator_loss(self, fake: Tensor, real: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """The generator's loss, and the detached fakes. Relativistic losses need the real images."""
        real_logits = self.logits(real, labels) if self.loss.relativistic else None
        return self._share(self.loss.generator(self.logits(fake, labels), real_logits)), fake.detach()

    def generator_loss_of_latents(self, latents: Tensor, real: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        """As :meth:`generator_loss`, but generates the fakes."""
        return self.generator_loss(self.generate(latents, labels), real, labels)

    def _share(self, loss: Tensor) -> Tensor:
        return loss if self._config.accumulate == 1 else loss / self._config.accumulate


def _given(labels: Tensor | None) -> tuple[Tensor, ...]:
    return () if labels is None else (labels,)


def at_resolution(images: Tensor, resolution: int, fade: Tensor | None = None) -> Tensor:
    """Average-pools images [N, C, H, W] to a resolution; with ``fade``, a scalar tensor, blends them with the
    resolution below as growing networks do."""
    factor = images.shape[-1] // resolution
    if factor > 1:
        images = avg_pool2d(images, factor)
    if fade is not None:
        lower = interpolate(avg_pool2d(images, 2), scale_factor=2, mode="nearest")
        images = lower.lerp(images, fade.to(images.dtype))
    return images
