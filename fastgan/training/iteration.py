"""One step of training as the device sees it: nothing in it waits for the device or depends on how often it ran.

What changes from step to step is either in a :class:`Plan`, which the host makes, or a number on the device that the
host writes before; so the step of a plan can be captured once as a CUDA graph and replayed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastgan.data import normalize
from fastgan.data.augment import random_flip
from fastgan.training.averaging import AveragedNetwork
from fastgan.training.differentiation import Differentiate
from fastgan.training.growth import at_resolution
from fastgan.training.non_finite import FiniteWatch
from fastgan.training.objectives import DiscriminatorObjective, GeneratorObjective
from fastgan.training.precision import Precision
from fastgan.training.ranks import Ranks, without_sync
from fastgan.training.statistics import HealthStatistics

Images = tuple[Tensor, Tensor | None]
"""uint8 images [N, C, H, W] of this rank, and their class numbers int64 [N] in a conditional run."""


class Plan(NamedTuple):
    """What of a step the host decides."""

    resolution: int
    """Of the images that the networks see."""
    fading: bool
    """Whether that resolution is being blended in."""
    batch_size: int
    """Of all ranks together."""
    penalised: tuple[bool, ...]
    """Of each update of the discriminator."""
    scored: bool
    """Whether training health takes in the scores of this step."""
    compared: bool
    """Whether it compares the images."""


class _Batch(NamedTuple):
    real: Tensor
    latents: Tensor
    labels: tuple[Tensor, ...]
    """None, or the one of the real images and, that a point between two has one, of the generated ones."""
    alpha: tuple[Tensor, ...]
    """None, or of a penalty."""

    def split(self, count: int) -> list["_Batch"]:
        if count == 1:
            return [self]

        def parts(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
            return list(zip(*(t.chunk(count) for t in tensors), strict=True)) or [()] * count

        rows = zip(parts((self.real, self.latents)), parts(self.labels), parts(self.alpha), strict=True)
        return [_Batch(*both, labels, alpha) for both, labels, alpha in rows]


class Iteration:
    """The device's part of a step, and the sums that it leaves there.

    Args:
        objective, generator_objective: what the discriminator and the generator are trained to do.
        optimizers: the generator's, the discriminator's.
        averaged: the generator's average.
        precision: of the networks.
        random: draws latents and points between images.
        ranks: the processes that share each batch.
        differentiate: how gradients are computed.
        draw_images: this rank's part of a batch of so many images; None where :meth:`run` is given them.
        accumulate: how many parts of a batch are worked through one after the other.
        flips: whether half of the real images are mirrored.
        grows: whether some layers are without gradients at times.
    """

    def __init__(
        self,
        objective: DiscriminatorObjective,
        generator_objective: GeneratorObjective,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        averaged: AveragedNetwork,
        precision: Precision,
        random: torch.Generator,
        ranks: Ranks,
        differentiate: Differentiate,
        *,
        draw_images: Callable[[int], Images] | None,
        accumulate: int,
        flips: bool,
        grows: bool,
    ) -> None:
        generator, discriminator = generator_objective.generator, objective.discriminator
        self.objective = objective
        self.generator_optimizer, self.discriminator_optimizer = optimizers
        self.fade = torch.ones((), device=random.device)
        # Of the discriminator's loss, the generator's, and the penalty where there is one.
        self.loss_sums = torch.zeros(3 if objective.regularizer else 2, device=random.device)
        self.statistics = HealthStatistics(generator, random.device)
        losses = ["discriminator_loss", "generator_loss", "penalty"][: len(self.loss_sums)]
        self.watch = FiniteWatch((losses, self.loss_sums), discriminator, generator)
        self._averaged = averaged
        self._precision = precision
        self._random = random
        self._ranks = ranks
        self._differentiate = differentiate
        self._draw_images = draw_images
        self._accumulate = accumulate
        self._flips = flips
        self._latent_dim = generator.latent_dim
        self._generator_parameters = list(generator.parameters())
        self._discriminator_parameters = list(discriminator.parameters())
        self._buffers = ranks.of_batches(generator, discriminator)
        # A penalty leaves the last bias out.
        terms = ranks.parallel(objective, some_unused=grows or objective.regularizer is not None)
        generator_objective.generator = ranks.parallel(generator, some_unused=grows)
        self._terms, self._forward = terms, generator_objective.generator
        # Each is one object for good, by which a compiled form of it is found again.
        self._loss, self._penalty = partial(terms, "loss"), partial(terms, "penalty")
        self._fakes, self._of_fakes = generator_objective.images, generator_objective.of_images
        self._of_latents = generator_objective.of_latents

    def parameters(self) -> list[nn.Parameter]:
        """Of both networks."""
        return [*self._generator_parameters, *self._discriminator_parameters]

    def before(self, step: int) -> None:
        """Writes the numbers on the device that depend on how many steps have been trained."""
        self.watch.before(step)
        self._averaged.before(step + 1)

    def run(self, plan: Plan, given: Sequence[Images] = ()) -> None:
        """Trains the discriminator as often as the plan says, each time on a fresh batch, then the generator once.

        The generator learns from the last batch that the discriminator has seen, and its average is updated.

        Args:
            plan: of this step.
            given: where none are drawn here, the images for each update of the discriminator.
        """
        self.watch.between_steps()
        *first_updates, last_update = range(len(plan.penalised))
        for update in first_updates:
            self._train_discriminator(plan, update, given)
        # Where a batch is worked through at once the generator goes on from the images that it has made already.
        keep_graph = self._accumulate == 1 and self._differentiate.keeps_graphs
        parts, fake, logits = self._train_discriminator(plan, last_update, given, keep_graph=keep_graph)
        fake = self._train_generator(parts, fake if keep_graph else None)
        if plan.scored:
            self.statistics.add_scores(*logits)
        if plan.compared:
            self.statistics.add_comparison(parts[-1].real, fake)
        self._ranks.mean_(self._buffers)
        self._averaged.update()

    def _draw(self, plan: Plan, given: Images | None, *, penalised: bool) -> _Batch:
        images, labels = self._draw_images(plan.batch_size) if given is None else given
        if self._flips:
            images = random_flip(images)
        real = at_resolution(normalize(images), plan.resolution, self.fade if plan.fading else None)
        latents = self._latents(plan.batch_size)
        alpha = (self._draw_here(torch.rand, plan.batch_size, 1, 1, 1),) if penalised else ()
        return _Batch(self._precision.images(real), latents, () if labels is None else (labels,), alpha)

    def _latents(self, size: int) -> Tensor:
        return self._draw_here(torch.randn, size, self._latent_dim)

    def _draw_here(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        # All ranks draw the same numbers, and take their part.
        whole = draw(shape, device=self._random.device, generator=self._random, dtype=self._precision.dtype)
        return self._ranks.part(whole)

    def _train_discriminator(
        self, plan: Plan, update: int, given: Sequence[Images], *, keep_graph: bool = False
    ) -> tuple[list[_Batch], Tensor, tuple[Tensor, Tensor]]:
        """An update of the discriminator.

        Returns:
            The parts of the batch; and of the last of them the generated images, with their graph where it is to be
            kept, and the logits of real and of generated images before the update.
        """
        penalised = plan.penalised[update]
        batch = self._draw(plan, given[update] if given else None, penalised=penalised)
        parts = batch.split(self._accumulate)
        self.discriminator_optimizer.zero_grad()
        for part in parts:
            with torch.set_grad_enabled(keep_graph):
                fake = self._differentiate.forward(self._fakes, part.latents, *part.labels)
            with without_sync(self._terms, part is not parts[-1]):
                logits = self._discriminator_phase(part, fake.detach())
                if penalised:
                    self._regularization_phase(part, fake.detach())
        self._update(self.discriminator_optimizer, self._precision.discriminator_scaler)
        self.watch.after_discriminator(update)
        return parts, fake, logits

    def _discriminator_phase(self, part: _Batch, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the gradient of the discriminator's loss; returns the logits of real and of generated images."""
        scale = self._scale_of(self._precision.discriminator_scaler)
        loss, real_logits, fake_logits = self._differentiate(
            self._loss, self._discriminator_parameters, scale, part.real, fake, *part.labels
        )
        self.loss_sums[0] += loss / self._accumulate
        return real_logits, fake_logits

    def _regularization_phase(self, part: _Batch, fake: Tensor) -> None:
        """Adds the gradient of the penalty to that of the loss.

        Lazily, once in k updates with k times the weight, it has the same mean gradient (Karras et al. 2020, StyleGAN2,
        https://arxiv.org/abs/1912.04958, section 3.1 and appendix B). There the penalty has updates of its own beside
        those of the loss, for which Adam's settings are adapted; here one update takes both, and they stay.
        """
        scale = self._scale_of(self._precision.discriminator_scaler)
        (penalty,) = self._differentiate(
            self._penalty, self._discriminator_parameters, scale, part.real, fake, *part.alpha, *part.labels
        )
        if self._precision.scales:
            # Its own gradients overflow while the scale is being found; the update is left out then.
            penalty = penalty.nan_to_num(nan=0.0, posinf=0.0)
        self.loss_sums[2] += penalty / self._accumulate

    def _train_generator(self, parts: list[_Batch], kept: Tensor | None) -> Tensor:
        """An update of the generator, by images whose graph was kept or by making them again.

        Returns:
            The images of the last part.
        """
        # The gradient passes through the discriminator, whose own weights need none now.
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(False)
        self.generator_optimizer.zero_grad()
        for part in parts:
            with without_sync(self._forward, part is not parts[-1]):
                fake = self._generator_phase(part, kept)
        self._update(self.generator_optimizer, self._precision.generator_scaler)
        for parameter in self._discriminator_parameters:
            parameter.requires_grad_(True)
        return fake

    def _generator_phase(self, part: _Batch, kept: Tensor | None) -> Tensor:
        """Adds the gradient of the generator's loss; returns the images without their graph."""
        scale = self._scale_of(self._precision.generator_scaler)
        function, first = (self._of_latents, part.latents) if kept is None else (self._of_fakes, kept)
        loss, fake = self._differentiate(function, self._generator_parameters, scale, first, part.real, *part.labels)
        self.loss_sums[1] += loss / self._accumulate
        return fake

    def _scale_of(self, scaler: torch.amp.GradScaler) -> Callable[[Tensor], Tensor]:
        if self._accumulate == 1:
            return scaler.scale if scaler.is_enabled() else _as_it_is
        return lambda loss: scaler.scale(loss / self._accumulate)

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        scaler.step(optimizer)
        scaler.update()


def _as_it_is(loss: Tensor) -> Tensor:
    return loss
