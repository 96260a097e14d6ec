"""All scores of generated images from their features, with standard errors."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.metrics import MetricsError
from fastgan.metrics.distances import frechet_distance, kernel_distance
from fastgan.metrics.features import Features
from fastgan.metrics.neighbors import MIN_COUNT, neighbor_scores
from fastgan.seeds import Stream, seed_of

# Each half must have enough images for the neighbors.
MIN_IMAGES = 2 * MIN_COUNT

# From 20 replicates a standard error has a relative error of 1 / sqrt(2 * 19) = 16%.
REPLICATES = 20

# Maximum number of images per side in a replicate. It bounds the time; the spread is scaled up in :func:`score`.
_MAX_REPLICATE = 5000

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Scale:
    """The name of a score in tables, its range, and whether higher is better."""

    label: str
    low: float
    high: float
    higher_is_better: bool


SCALES = {
    "fid": Scale("FID", 0.0, torch.inf, False),
    "kid": Scale("kernel distance", -torch.inf, torch.inf, False),
    "inception_score": Scale("Inception Score", 1.0, torch.inf, True),
    "precision": Scale("precision", 0.0, 1.0, True),
    "recall": Scale("recall", 0.0, 1.0, True),
    "f1": Scale("F1", 0.0, 1.0, True),
    "density": Scale("density", 0.0, torch.inf, True),
    "coverage": Scale("coverage", 0.0, 1.0, True),
}


@dataclass(frozen=True)
class Score:
    """A score and its standard error.

    Attributes:
        value: score of all images.
        error: standard error, by resampling.
        reference: score of real images, or None if unknown.
    """

    value: float
    error: float
    reference: float | None

    def interval(self, scale: Scale) -> tuple[float, float]:
        """The 95% confidence interval, clipped to the range of the score."""
        margin = _NORMAL_95 * self.error
        return max(scale.low, self.value - margin), min(scale.high, self.value + margin)


def differ(a: Score, b: Score) -> bool:
    """Whether two independent scores differ with 95% confidence; conservative if they share real images."""
    return abs(a.value - b.value) > _NORMAL_95 * (a.error**2 + b.error**2) ** 0.5


def inception_score(logits: Tensor) -> float:
    """The score of Salimans et al. 2016 (https://arxiv.org/abs/1606.03498, section 4), over all images in one split.

    The exponential of the mean Kullback-Leibler divergence between the class probabilities of an image and those of all
    images: high if each image clearly belongs to one class, and the classes are many.

    Args:
        logits: class logits, floating-point [N, K]; computed in float64.

    Returns:
        The score, in [1, K].
    """
    log_p = logits.double().log_softmax(dim=1)
    p = log_p.exp()
    return (p * (log_p - p.mean(dim=0).log())).nan_to_num(nan=0.0).sum(dim=1).mean().exp().item()


def score_values(real: Features, generated: Features) -> dict[str, float]:
    """The scores of ``SCALES``; no Inception Score without class logits.

    ``f1`` is the harmonic mean of precision and recall; 0 if both are 0.
    """
    values = {
        "fid": frechet_distance(real.values, generated.values),
        "kid": kernel_distance(real.values, generated.values),
    }
    if generated.logits is not None:
        values["inception_score"] = inception_score(generated.logits)
    neighbors = neighbor_scores(real.values, generated.values)
    both = neighbors.precision + neighbors.recall
    values["f1"] = 2 * neighbors.precision * neighbors.recall / both if both else 0.0
    values |= neighbors._asdict()
    return {name: values[name] for name in SCALES if name in values}


def score(real: Features, generated: Features, *, seed: int, progress: Iterable[int] | None = None) -> dict[str, Score]:
    """Computes all scores with standard errors.

    A standard error is the spread of the score over random subsets of both samples, drawn without replacement, scaled
    to the full count: the delete-d jackknife (Shao and Wu 1989, https://doi.org/10.1214/aos/1176347263), which needs no
    scaling for halves. With replacement, as in the bootstrap, copies of an image would be neighbors at distance 0. If
    generated and real images have almost equal distributions, FID and KID are near their minimum, where this
    overestimates their standard errors.

    The reference of FID is that of two samples of the real images, drawn with replacement, as many as are scored.
    The reference of the Inception Score is the score of the real images. The other references compare two halves of the
    real images.

    Args:
        real: features of at least 12 images.
        generated: features of at least 12 images.
        seed: seed of the subsets.
        progress: range(REPLICATES), or a wrapper that shows progress.
    """
    require_count(len(real.values), "real")
    require_count(len(generated.values), "generated")
    values = score_values(real, generated)
    random = torch.Generator().manual_seed(seed_of(seed, Stream.METRICS, 2))
    spread, floor = [], []
    sizes = [min(len(sample.values) // 2, _MAX_REPLICATE) for sample in (real, generated)]
    pairs = [min(len(sample.values), _MAX_REPLICATE) for sample in (real, generated)]
    for _ in progress or range(REPLICATES):
        drawn = [torch.randperm(len(sample.values), generator=random) for sample in (real, generated)]
        subsets = [sample.at(order[:size]) for sample, order, size in zip((real, generated), drawn, sizes, strict=True)]
        spread.append(score_values(*subsets))
        pair = [real.values[torch.randint(len(real.values), (size,), generator=random)] for size in pairs]
        floor.append(frechet_distance(*pair))
    # The bias of a Frechet distance decreases with the counts.
    shrink = sum(1 / len(sample.values) for sample in (real, generated)) / sum(1 / size for size in pairs)
    references = _references(real, random) | {"fid": sum(floor) / len(floor) * shrink}
    if generated.logits is None:
        references.pop("inception_score", None)
    scaling = (sizes[1] / (len(generated.values) - sizes[1])) ** 0.5
    return {
        name: Score(value, scaling * statistics.stdev(row[name] for row in spread), references.get(name))
        for name, value in values.items()
    }


def require_count(count: int, what: str) -> None:
    """Raises MetricsError, one sentence, for fewer images than the scores need."""
    if count < MIN_IMAGES:
        images = "image" if count == 1 else "images"
        raise MetricsError(
            f"there {'is' if count == 1 else 'are'} {count} {what} {images}; scores and their standard errors need at "
            f"least {MIN_IMAGES}"
        )


def _references(real: Features, random: torch.Generator) -> dict[str, float]:
    order = torch.randperm(len(real.values), generator=random)[: 2 * _MAX_REPLICATE]
    values = score_values(*(real.at(half) for half in (order[::2], order[1::2])))
    return values | ({} if real.logits is None else {"inception_score": inception_score(real.logits)})
