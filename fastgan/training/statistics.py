"""Training statistics on the device, which steps add to and reports read: figures of health, and finiteness."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

# The figures change slowly, and on small networks each operation counts: taken at every step they are a fifth of the
# time of a step of the mlp model on the CPU. To compare all pairs of a batch costs most.
_STEPS_BETWEEN_SAMPLES = 4
_STEPS_BETWEEN_COMPARISONS = 8
# Pairs, and so time, grow with the square.
_MOST_COMPARED = 64

_NEVER = torch.iinfo(torch.int64).max
_MOMENTS = 1024  # more than there may be updates of the discriminator in a step


@dataclass(frozen=True)
class Reading:
    """Means over every fourth of the steps since the last report."""

    step: int
    """The step of the report, from 1."""
    real_score: float
    """Mean logit of real images."""
    fake_score: float
    """Mean logit of generated images."""
    d_real: float
    """D(x): mean sigmoid of the logits of real images; a probability only where the loss makes logits log-odds."""
    d_fake: float
    """D(G(z)): the same of generated images."""
    ranked_right: float
    """Share of pairs of a real and a generated image of which the real one has the higher logit; 0.5 by guessing."""
    ranked_right_variance: float
    """Variance of that share from step to step, without the part that comes from a batch being a sample; at most 0.25
    and, being an estimate, below 0 now and then."""
    generator_gradient: float
    """Root mean square of the gradient of the generator's loss by each of its weights."""
    spread: float
    """Mean distance of two generated images, over that of two real ones."""
    fake_to_real: float
    """Mean distance of a generated image from the nearest real one of the batch, over the mean distance of two real."""
    real_to_fake: float
    """Mean distance of a real image from the nearest generated one, over the same."""


class HealthStatistics:
    """Sums since the last report, of the batches and gradients of its first step and every fourth from there.

    Args:
        generator: whose gradients are measured.
        device: where the sums are.
    """

    def __init__(self, generator: nn.Module, device: torch.device) -> None:
        self._generator = generator
        self._num_weights = sum(p.numel() for p in generator.parameters())
        # Of the scores: real, fake, as probabilities the same, ranked right, its square, gradient. Of the comparisons:
        # distances of two real, of two fake, of a fake one from the nearest real one, and the other way.
        self._score_sums = torch.zeros(7, device=device)
        self._distance_sums = torch.zeros(4, device=device)
        self._num_steps = 0
        self._num_scored = 0
        self._num_compared = 0
        self._batch_size = 0

    def due(self) -> tuple[bool, bool]:
        """Whether the scores of the next step are taken in, and whether its images are compared."""
        return self._num_steps % _STEPS_BETWEEN_SAMPLES == 0, self._num_steps % _STEPS_BETWEEN_COMPARISONS == 0

    @torch.no_grad()
    def add_scores(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Takes in what the discriminator said of real and generated images [N, ...] before it was updated, and the
        gradients of the generator; never waits for the device."""
        if real_logits.dim() > 1:
            real_logits, fake_logits = real_logits.flatten(1).mean(1), fake_logits.flatten(1).mean(1)
        self._score_sums += self._scores(real_logits, fake_logits)

    @torch.no_grad()
    def add_distances(self, real: Tensor, fake: Tensor) -> None:
        """Takes in two batches of images [N, C, H, W]; never waits for the device."""
        self._distance_sums += _distances(real[:_MOST_COMPARED], fake[:_MOST_COMPARED])

    def count(self, batch_size: int) -> None:
        """Counts a step that has taken in what was due."""
        scored, compared = self.due()
        self._num_scored += scored
        self._num_compared += compared
        self._num_steps += 1
        self._batch_size = batch_size

    def _scores(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        logits = torch.stack([real_logits, fake_logits]).float()
        ranked_right = (logits[0] - logits[1]).sign().mean() / 2 + 0.5
        gradients = [p.grad for p in self._generator.parameters() if p.grad is not None]
        others = torch.stack(
            [ranked_right, ranked_right.square(), torch.stack(torch._foreach_norm(gradients)).norm().float()]
        )
        return torch.cat([logits.mean(1), logits.sigmoid().mean(1), others])

    def read(self, step: int) -> Reading:
        """The means since the last reset, at least one step ago; waits for the device."""
        scores = (self._score_sums / self._num_scored).tolist()
        real_real, fake_fake, fake_real, real_fake = (self._distance_sums / self._num_compared).tolist()
        *others, ranked_right, square, gradient_norm = scores
        # A mean of N draws of 0 or 1 with mean q has mean square q^2 + q (1 - q) / N.
        n = self._batch_size
        true_square = (n * square - ranked_right) / (n - 1)
        # Where all real images are the same any generated ones are spread enough.
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
        """What a checkpoint keeps, with :meth:`state`."""
        return {"score_sums": self._score_sums, "distance_sums": self._distance_sums}

    def state(self) -> dict[str, int]:
        """What of it is no tensor."""
        return {
            "num_steps": self._num_steps,
            "num_scored": self._num_scored,
            "num_compared": self._num_compared,
            "batch_size": self._batch_size,
        }

    def load(self, tensors: dict[str, Tensor], state: dict[str, int]) -> None:
        """Takes over what :meth:`tensors` and :meth:`state` gave.

        Raises:
            KeyError, RuntimeError: for anything else.
        """
        self._score_sums.copy_(tensors["score_sums"])
        self._distance_sums.copy_(tensors["distance_sums"])
        self._num_steps, self._num_scored = state["num_steps"], state["num_scored"]
        self._num_compared, self._batch_size = state["num_compared"], state["batch_size"]

    def reset(self) -> None:
        """Forgets the steps so far."""
        self._score_sums.zero_()
        self._distance_sums.zero_()
        self._num_steps = self._num_scored = self._num_compared = 0


def _distances(real: Tensor, fake: Tensor) -> Tensor:
    """Mean Euclidean distances [4]: of two real images, two fake, a fake one from the nearest real, and a real one from
    the nearest fake."""
    n = len(real)
    images = torch.cat([real, fake]).flatten(1).float()
    # One matrix product. Centred, because it subtracts squares.
    between = torch.cdist(images - images.mean(0), images - images.mean(0))
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
    """The first value of a run that was infinite or not a number."""

    name: str
    """Of a loss or a tensor, such as ``generator.layers.4.weight``."""
    step: int
    """How many steps had been trained when it was so."""


class FiniteWatch:
    """Notes for each loss, weight and running statistic when it first held an infinity or a NaN.

    A NaN is in every tensor two steps later, so that only the order in which they went bad names the culprit.

    Args:
        losses: their names, and their sums [len(losses)] that a NaN or an infinity stays in.
        discriminator, generator: the networks, whose tensors keep their places for good.
    """

    def __init__(self, losses: tuple[list[str], Tensor], discriminator: nn.Module, generator: nn.Module) -> None:
        names, self._loss_sums = losses
        of_discriminator, of_generator = (_floats(network) for network in (discriminator, generator))
        self._discriminator, self._generator = list(of_discriminator.values()), list(of_generator.values())
        self._names = [
            *names,
            *(f"discriminator.{name}" for name in of_discriminator),
            *(f"generator.{name}" for name in of_generator),
        ]
        # In moments: many to a step, so that the updates of the discriminator in it have one each. A number on the
        # device, so that a captured graph knows the step.
        device = self._loss_sums.device
        self._first = torch.full((len(self._names),), _NEVER, dtype=torch.int64, device=device)
        self._moment = torch.zeros((), dtype=torch.int64, device=device)

    def set_step(self, step: int) -> None:
        """Sets the number of steps so far; never waits for the device."""
        self._moment.fill_(step * _MOMENTS)

    def between_steps(self, *, all: bool = False) -> None:
        """Looks at the losses and the generator, which the step before has updated, or at everything; never waits for
        the device. The discriminator has been looked at since its update."""
        self._look(self._discriminator if all else [], self._generator, self._moment)

    def after_discriminator(self, update: int) -> None:
        """Looks at the losses and the discriminator after an update of it, counted from 0, in the step that
        :meth:`set_step` set. What this finds comes before the generator's part of the step."""
        self._look(self._discriminator, [], self._moment + (update + 1))

    @torch.no_grad()
    def _look(self, of_discriminator: list[Tensor], of_generator: list[Tensor], moment: Tensor) -> None:
        # A norm is one pass over all tensors in one kernel, and on the CPU 13 times as fast as isfinite (0.13 against
        # 1.6 ms for the 31 tensors of the dcgan preset). It overflows where a float32 value passes 1e19, too.
        norms = torch._foreach_norm([*of_discriminator, *of_generator])
        values = torch.cat([self._loss_sums, torch.stack(norms).float()])
        found = torch.where(values * 0 != 0, moment, _NEVER)
        # Moments only rise, so that the least is the first.
        known = len(self._loss_sums) + len(of_discriminator)
        for first, latest in (
            (self._first[:known], found[:known]),
            (self._first[len(self._first) - len(of_generator) :], found[known:]),
        ):
            torch.minimum(first, latest, out=first)

    def moments(self) -> Tensor:
        """When each was first bad, int64; to be made one with those of other ranks."""
        return self._first

    def first(self) -> NonFinite | None:
        """The first that was bad; waits for the device. Of those that went bad together a loss comes first, then the
        discriminator, then the generator, each from its input to its output."""
        moments = self._first.tolist()
        moment = min(moments)
        return None if moment == _NEVER else NonFinite(self._names[moments.index(moment)], -(-moment // _MOMENTS))


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with an infinity or a NaN in it; waits for the device."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    # A finite norm proves finite values, in a thirteenth of the time (see FiniteWatch).
    if torch.stack([norm.double() for norm in torch._foreach_norm(list(floats.values()))]).isfinite().all():
        return None
    finite = torch.stack([tensor.isfinite().all() for tensor in floats.values()]).tolist()
    return next((name for name, good in zip(floats, finite, strict=True) if not good), None)


def _floats(network: nn.Module) -> dict[str, Tensor]:
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if tensor.is_floating_point() and tensor.numel()}
