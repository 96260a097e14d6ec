"""Training statistics on the device: figures of training health, and the first non-finite value."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

# The figures change slowly, and for small networks each operation counts: computed at every step they would take a
# fifth of the time of a step of the mlp model on the CPU. Comparing all pairs of a batch costs most.
_STEPS_BETWEEN_SAMPLES = 4
_STEPS_BETWEEN_COMPARISONS = 8
# The number of pairs, and so the time, grows with the square.
_MOST_COMPARED = 64

_NEVER = torch.iinfo(torch.int64).max
_MOMENTS = 1024  # per step; exceeds the largest discriminator_steps


@dataclass(frozen=True)
class Reading:
    """Means over every fourth step since the last report, or every eighth for the distances between images."""

    step: int
    """The step of the report, from 1."""
    real_score: float
    """Mean logit of real images."""
    fake_score: float
    """Mean logit of generated images."""
    d_real: float
    """D(x): mean sigmoid of the logits of real images; a probability only for losses whose logits are log-odds."""
    d_fake: float
    """D(G(z)): mean sigmoid of the logits of generated images."""
    ranked_right: float
    """Share of pairs (real, generated) whose real image has the higher logit; 0.5 by chance."""
    ranked_right_variance: float
    """Variance of that share over steps, without the sampling variance of a batch; at most 0.25. The estimate may be
    below 0."""
    generator_gradient: float
    """Root mean square of the gradient of the generator's loss, per weight."""
    spread: float
    """Mean distance of two generated images, divided by that of two real ones."""
    fake_to_real: float
    """Mean distance of a generated image to the nearest real one of the batch, divided by that of two real ones."""
    real_to_fake: float
    """Mean distance of a real image to the nearest generated one of the batch, divided by that of two real ones."""


class HealthStatistics:
    """Sums over the steps since the last report: over the first and every fourth after it, or eighth for distances.

    ``num_steps`` is the number of steps since the last report.
    """

    def __init__(self, generator: nn.Module, device: torch.device) -> None:
        self._generator = generator
        self._num_weights = sum(p.numel() for p in generator.parameters())
        # Scores: mean logit of real and of fake images, mean sigmoid of both, share ranked right, its square, gradient
        # norm. Distances: of two real, two fake, a fake image to the nearest real one, a real to the nearest fake one.
        self._score_sums = torch.zeros(7, device=device)
        self._distance_sums = torch.zeros(4, device=device)
        self.num_steps = 0
        self._batch_size = 0

    def due(self) -> tuple[bool, bool]:
        """Whether the next step adds scores, and whether it adds distances."""
        return self.num_steps % _STEPS_BETWEEN_SAMPLES == 0, self.num_steps % _STEPS_BETWEEN_COMPARISONS == 0

    @torch.no_grad()
    def add_scores(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Adds the logits [N, ...] of real and generated images from before the discriminator's update, and the
        generator's current gradients; never waits for the device."""
        if real_logits.dim() > 1:
            real_logits, fake_logits = real_logits.flatten(1).mean(1), fake_logits.flatten(1).mean(1)
        logits = torch.stack([real_logits, fake_logits]).float()
        ranked_right = (logits[0] - logits[1]).sign().mean() / 2 + 0.5
        gradients = [p.grad for p in self._generator.parameters() if p.grad is not None]
        others = torch.stack(
            [ranked_right, ranked_right.square(), torch.stack(torch._foreach_norm(gradients)).norm().float()]
        )
        self._score_sums += torch.cat([logits.mean(1), logits.sigmoid().mean(1), others])

    @torch.no_grad()
    def add_distances(self, real: Tensor, fake: Tensor) -> None:
        """Adds the distances between images [N, C, H, W] of a real and a fake batch; never waits for the device."""
        self._distance_sums += _distances(real[:_MOST_COMPARED], fake[:_MOST_COMPARED])

    def count(self, batch_size: int) -> None:
        """Counts a step, after it has added what :meth:`due` returned."""
        self.num_steps += 1
        self._batch_size = batch_size

    def read(self, step: int) -> Reading:
        """The means since the last reset, at least one step ago; waits for the device."""
        scored, compared = (-(-self.num_steps // n) for n in (_STEPS_BETWEEN_SAMPLES, _STEPS_BETWEEN_COMPARISONS))
        *others, ranked_right, square, gradient_norm = (self._score_sums / scored).tolist()
        real_real, fake_fake, fake_real, real_fake = (self._distance_sums / compared).tolist()
        # A mean of N draws of 0 or 1 with mean q has mean square q^2 + q (1 - q) / N.
        n = self._batch_size
        true_square = (n * square - ranked_right) / (n - 1)
        # If all real images are equal, the scale is tiny, and generated images of any spread pass.
        scale = max(real_real, torch.finfo(torch.float32).tiny)
        return Reading(
            step,
            *others,
            ranked_right,
            true_square - ranked_right**2,
            gradient_norm / math.sqrt(self._num_weights),
            fake_fake / scale,
            fake_real / scale,
            real_fake / scale,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The sums; a checkpoint stores them and ``num_steps``."""
        return {"score_sums": self._score_sums, "distance_sums": self._distance_sums}

    def reset(self) -> None:
        """Sets the sums and the number of steps to 0."""
        self._score_sums.zero_()
        self._distance_sums.zero_()
        self.num_steps = 0


def _distances(real: Tensor, fake: Tensor) -> Tensor:
    """Mean Euclidean distances [4]: of two real images, of two fake ones, of a fake image to the nearest real one, and
    of a real image to the nearest fake one."""
    n = len(real)
    images = torch.cat([real, fake]).flatten(1).float()
    # One matrix product, also for small batches: for 24 images of 28x28 it takes 0.05 ms on the CPU instead of 0.38.
    # Images are centered, because cdist then subtracts squares.
    images -= images.mean(0)
    between = torch.cdist(images, images, compute_mode="use_mm_for_euclid_dist")
    off_diagonal = n * (n - 1)
    real_fake = between[:n, n:]
    return torch.stack(
        [
            between[:n, :n].sum() / off_diagonal,
            between[n:, n:].sum() / off_diagonal,
            real_fake.amin(0).mean(),
            real_fake.amin(1).mean(),
        ]
    )


class NonFinite(NamedTuple):
    """The first value of a run to become infinite or NaN."""

    name: str
    """Name of a loss or a tensor, such as ``generator.layers.4.weight``."""
    step: int
    """Number of steps trained by then."""


class FiniteWatch:
    """Records when each loss, weight and running statistic first was infinite or NaN.

    Two steps later every tensor holds a NaN, so only the order of the failures identifies the first.

    Args:
        losses: names of the losses.
        loss_sums: their sums [len(losses)], in which a NaN or an infinity persists.
        discriminator, generator: the networks, whose parameters and buffers must stay the same tensors.
    """

    def __init__(self, losses: list[str], loss_sums: Tensor, discriminator: nn.Module, generator: nn.Module) -> None:
        self._loss_sums = loss_sums
        of_discriminator, of_generator = (
            {
                f"{kind}.{name}": tensor.detach()
                for name, tensor in [*network.named_parameters(), *network.named_buffers()]
                if tensor.is_floating_point() and tensor.numel()
            }
            for kind, network in (("discriminator", discriminator), ("generator", generator))
        )
        self._names = [*losses, *of_discriminator, *of_generator]
        self._tensors = [*of_discriminator.values(), *of_generator.values()]
        self._num_of_discriminator = len(of_discriminator)
        # Time is counted in moments, _MOMENTS per step, so that each discriminator update of a step has its own: when
        # each value was first not finite, to be reduced to the minimum over all ranks; and the current moment, a
        # tensor, so that a captured graph reads it.
        self.moments = torch.full((len(self._names),), _NEVER, dtype=torch.int64, device=loss_sums.device)
        self._moment = torch.zeros((), dtype=torch.int64, device=loss_sums.device)

    def set_step(self, step: int) -> None:
        """Sets the number of steps so far; never waits for the device."""
        self._moment.fill_(step * _MOMENTS)

    def after_discriminator(self, update: int) -> None:
        """Checks the losses and the discriminator after its update number ``update``, from 0, in the step that
        :meth:`set_step` set; never waits for the device."""
        self._look(slice(None, self._num_of_discriminator), self._moment + (update + 1))

    def after_generator(self) -> None:
        """Checks the losses and the generator at the end of that step; never waits for the device. Values found here
        count as later than those of the discriminator in the same step."""
        self._look(slice(self._num_of_discriminator, None), self._moment + _MOMENTS)

    def check_all(self) -> None:
        """Checks the losses and both networks between two steps; never waits for the device."""
        self._look(slice(None), self._moment)

    @torch.no_grad()
    def _look(self, part: slice, moment: Tensor) -> None:
        # Norms take one kernel and one pass over all tensors; on the CPU they are 13 times as fast as isfinite (0.13
        # and 1.6 ms for the 31 tensors of the dcgan preset). They also overflow for finite float32 values above 1e19.
        norms = torch.stack(torch._foreach_norm(self._tensors[part])).float()
        num_losses = len(self._loss_sums)
        for values, first in (
            (self._loss_sums, self.moments[:num_losses]),
            (norms, self.moments[num_losses:][part]),
        ):
            # Moments only increase, so the minimum is the first.
            torch.minimum(first, torch.where(values * 0 != 0, moment, _NEVER), out=first)

    def first(self) -> NonFinite | None:
        """The first non-finite value, or None; waits for the device. Of values with the same moment, losses precede the
        discriminator, and the discriminator the generator, each in the order of its parameters and buffers."""
        moments = self.moments.tolist()
        moment = min(moments)
        return None if moment == _NEVER else NonFinite(self._names[moments.index(moment)], -(-moment // _MOMENTS))


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with an infinity or a NaN, or None; waits for the device."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    # A finite norm proves that all values are finite, in a thirteenth of the time (see FiniteWatch).
    if torch.stack([norm.double() for norm in torch._foreach_norm(list(floats.values()))]).isfinite().all():
        return None
    finite = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    return next((name for name, good in zip(floats, finite, strict=True) if not good), None)
