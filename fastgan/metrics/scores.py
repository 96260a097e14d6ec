"""All scores of generated images by their features, and how sure they are."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.metrics.errors import MetricsError
from fastgan.metrics.features import Features
from fastgan.metrics.frechet import frechet_distance
from fastgan.metrics.inception_score import inception_score
from fastgan.metrics.kernel_distance import kernel_distance
from fastgan.metrics.neighbours import MIN_COUNT, neighbour_scores

# Halves of them must have neighbours.
MIN_IMAGES = 2 * MIN_COUNT

# The standard error of 20 replicates is itself right to 1 / sqrt(2 * 19) = 16%.
REPLICATES = 20

# Images of each side in a replicate: it bounds the time, and the spread is scaled to the count (see below).
_MAX_REPLICATE = 5000

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Scale:
    """Which values a score has, and which of them are better."""

    low: float
    high: float
    higher_is_better: bool


_SHARE = Scale(0.0, 1.0, True)
SCALES = {
    "fid": Scale(0.0, torch.inf, False),
    "kid": Scale(-torch.inf, torch.inf, False),
    "inception_score": Scale(1.0, torch.inf, True),
    "precision": _SHARE,
    "recall": _SHARE,
    "f1": _SHARE,
    "density": Scale(0.0, torch.inf, True),
    "coverage": _SHARE,
}


@dataclass(frozen=True)
class Score:
    """A score and its standard error.

    Attributes:
        value: of all images.
        error: the standard error, by resampling.
        reference: what real images have, or None where that is not known.
    """

    value: float
    error: float
    reference: float | None

    def interval(self, scale: Scale) -> tuple[float, float]:
        """The interval of 95% confidence, within the values that the score has."""
        margin = _NORMAL_95 * self.error
        return max(scale.low, self.value - margin), min(scale.high, self.value + margin)


def differ(a: Score, b: Score) -> bool:
    """Whether two independent scores differ with 95% confidence; cautious where they share the real images."""
    return abs(a.value - b.value) > _NORMAL_95 * (a.error**2 + b.error**2) ** 0.5


def score_values(real: Features, generated: Features) -> dict[str, float]:
    """The scores of ``SCALES``; without the Inception Score where there are no class logits.

    ``f1`` is the harmonic mean of precision and recall, 0 where both are.
    """
    values = {
        "fid": frechet_distance(real.values, generated.values),
        "kid": kernel_distance(real.values, generated.values),
    }
    if generated.logits is not None:
        values["inception_score"] = inception_score(generated.logits)
    neighbours = neighbour_scores(real.values, generated.values)
    both = neighbours.precision + neighbours.recall
    values |= {
        "precision": neighbours.precision,
        "recall": neighbours.recall,
        "f1": 2 * neighbours.precision * neighbours.recall / both if both else 0.0,
        "density": neighbours.density,
        "coverage": neighbours.coverage,
    }
    return values


def score(real: Features, generated: Features, *, seed: int, progress: Iterable[int] | None = None) -> dict[str, Score]:
    """All scores with standard errors.

    A standard error is the spread of the score over random subsets of both samples, drawn without replacement and
    scaled to the full count: the delete-d jackknife (Shao and Wu 1989, https://doi.org/10.1214/aos/1176347263), which
    for halves needs no scaling. With replacement, as in the bootstrap, copies of an image would be neighbours at
    distance 0. Where generated and real images are almost alike FID and KID have errors that are too large rather than
    too small, since their derivative vanishes there.

    The reference of FID is that of two samples of the real images, drawn with replacement and as many as are compared;
    of the Inception Score that of the real images; of the others that of two halves of the real images.

    Args:
        real: at least 12 images.
        generated: at least 12 images.
        seed: of the subsets.
        progress: range(REPLICATES), or a wrapper that shows it.

    Raises:
        MetricsError: for fewer images; one sentence.
    """
    require_count(len(real.values), "real")
    require_count(len(generated.values), "generated")
    values = score_values(real, generated)
    random = torch.Generator().manual_seed(seed)
    spread, floor = [], []
    sizes = [min(len(sample.values) // 2, _MAX_REPLICATE) for sample in (real, generated)]
    pairs = [min(len(sample.values), _MAX_REPLICATE) for sample in (real, generated)]
    for _ in progress or range(REPLICATES):
        subsets = [_subset(sample, size, random) for sample, size in zip((real, generated), sizes, strict=True)]
        spread.append(score_values(*subsets))
        pair = [real.values[torch.randint(len(real.values), (size,), generator=random)] for size in pairs]
        floor.append(frechet_distance(*pair))
    # The bias of a Frechet distance falls with the count.
    shrink = sum(1 / len(sample.values) for sample in (real, generated)) / sum(1 / size for size in pairs)
    references = _references(real, random) | {"fid": sum(floor) / len(floor) * shrink}
    if generated.logits is None:
        references.pop("inception_score", None)
    scaling = (sizes[1] / (len(generated.values) - sizes[1])) ** 0.5
    return {
        name: Score(value, scaling * _deviation([row[name] for row in spread]), references.get(name))
        for name, value in values.items()
    }


def require_count(count: int, what: str) -> None:
    """Refuses fewer images than the scores take.

    Raises:
        MetricsError: one sentence.
    """
    if count < MIN_IMAGES:
        images = "image" if count == 1 else "images"
        raise MetricsError(
            f"there {'is' if count == 1 else 'are'} {count} {what} {images}, and scores with their errors take at "
            f"least {MIN_IMAGES}"
        )


def _references(real: Features, random: torch.Generator) -> dict[str, float]:
    order = torch.randperm(len(real.values), generator=random)[: 2 * _MAX_REPLICATE]
    halves = [_at(real, half) for half in (order[::2], order[1::2])]
    values = score_values(*halves)
    return values | ({} if real.logits is None else {"inception_score": inception_score(real.logits)})


def _subset(features: Features, size: int, random: torch.Generator) -> Features:
    return _at(features, torch.randperm(len(features.values), generator=random)[:size])


def _at(features: Features, indices: Tensor) -> Features:
    return Features(features.values[indices], None if features.logits is None else features.logits[indices])


def _deviation(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).std().item()
