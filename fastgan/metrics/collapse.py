"""Detects mode collapse in three ways: by class shares (looking), by clustering, and by a score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.metrics.features import Features
from fastgan.metrics.neighbors import neighbor_scores
from fastgan.metrics.shares import Shares
from fastgan.seeds import Stream, seed_of

# A generator counts as collapsed if the missing modes hold at least this share of the real images.
COLLAPSED_FROM = 0.25

# Fraction of the precision of real images below which the score gives no answer: coverage does not measure the variety
# of unrealistic images.
_MIN_PRECISION = 0.5

_MAX_CLUSTERS = 20
# Mean number of real images per cluster: enough that no cluster is lost by chance.
_PER_CLUSTER = 50

# The number of distances grows with the square of the count; a share of 5,000 has a standard error of 0.7%.
_MAX_SCORED = 5000


@dataclass(frozen=True)
class Answer:
    """One of the three answers.

    Attributes:
        way: ``looking``, ``clustering`` or ``score``.
        lost: the share of the real images in missing modes, 0 to 1, or None without an answer.
        evidence: one sentence.
    """

    way: str
    lost: float | None
    evidence: str

    @property
    def verdict(self) -> str:
        """``collapsed``, ``not collapsed``, or ``no answer``."""
        if self.lost is None:
            return "no answer"
        return "collapsed" if self.lost >= COLLAPSED_FROM else "not collapsed"


@dataclass(frozen=True)
class Collapse:
    """The three answers, and the shares that the picture shows.

    Attributes:
        answers: by looking, by clustering and by a score.
        shown: the class shares, or the cluster shares without a classifier.
    """

    answers: tuple[Answer, Answer, Answer]
    shown: Shares

    @property
    def verdict(self) -> str:
        """The majority of the answers: ``collapsed`` or ``not collapsed``; ``in doubt`` without a majority."""
        verdicts = [answer.verdict for answer in self.answers]
        votes = verdicts.count("collapsed") - verdicts.count("not collapsed")
        return "in doubt" if votes == 0 else "collapsed" if votes > 0 else "not collapsed"


def detect_collapse(real: Features, generated: Features, classes: Shares | None, *, seed: int) -> Collapse:
    """Decides whether modes with a quarter or more of the real images are missing from the generated images.

    - By looking: the real share of the classes that a classifier does not find in the generated images. Without a
      classifier (``classes`` None) there is no answer.
    - By clustering: k-means of the real features; the real share of the clusters without generated images. After
      Richardson and Weiss 2018 (https://arxiv.org/abs/1805.12462), who count the bins that differ.
    - By a score: coverage and recall divided by those of real images, in samples of equal size; the larger of the two
      quotients counts, because coverage is also low for varied images of poor quality. There is no answer if precision
      is below half of that of real images.

    Each side has at least 12 images.
    """
    clusters = _clusters(real.values, generated.values, seed)
    return Collapse(
        (_by_looking(classes), _by_clustering(clusters), _by_score(real, generated, seed)), classes or clusters
    )


def _by_looking(classes: Shares | None) -> Answer:
    if classes is None:
        return Answer("looking", None, "there is no classifier for these images; look at the picture")
    lost = [classes.names[i] for i in classes.lost()]
    seen = f"{classes.captured} of {sum(count > 0 for count in classes.real)} {classes.kind} are captured"
    missing = f", {_joined(lost)} are missing" if lost else ""
    distance = f"the total variation from the real shares is {classes.distance():.0%}"
    return Answer("looking", classes.lost_share(), f"{seen}{missing}; {distance}")


def _by_clustering(clusters: Shares) -> Answer:
    lost = len(clusters.lost())
    evidence = (
        f"{lost} of {len(clusters.names)} clusters are missing, which hold {clusters.lost_share():.0%} of the real "
        f"images; a chi-squared test of equal shares gives p = {clusters.p_value():.2g}"
    )
    return Answer("clustering", clusters.lost_share(), evidence)


def _by_score(real: Features, generated: Features, seed: int) -> Answer:
    random = torch.Generator().manual_seed(seed_of(seed, Stream.METRICS, 3))
    size = min(len(real.values) // 2, len(generated.values), _MAX_SCORED)
    order = torch.randperm(len(real.values), generator=random)
    first, second = real.values[order[:size]], real.values[order[size : 2 * size]]
    of_real = neighbor_scores(first, second)
    chosen = torch.randperm(len(generated.values), generator=random)[:size]
    found = neighbor_scores(first, generated.values[chosen])
    evidence = (
        f"coverage is {found.coverage:.2f} (of as many real images {of_real.coverage:.2f}), and recall "
        f"{found.recall:.2f} ({of_real.recall:.2f})"
    )
    if found.precision < _MIN_PRECISION * of_real.precision:
        unlike = f"precision is {found.precision:.2f}, so most images are unlike real ones and do not measure variety"
        return Answer("score", None, f"{evidence}; {unlike}")
    kept = max(found.coverage / of_real.coverage, found.recall / max(of_real.recall, 1 / size))
    return Answer("score", max(0.0, 1 - kept), evidence)


def _clusters(real: Tensor, generated: Tensor, seed: int) -> Shares:
    # scikit-learn takes seconds to import.
    from sklearn.cluster import KMeans

    count = max(2, min(_MAX_CLUSTERS, len(real) // _PER_CLUSTER))
    machine = KMeans(count, n_init=4, random_state=seed_of(seed, Stream.METRICS, 4)).fit(real.numpy())
    counts = [
        torch.from_numpy(machine.predict(sample.numpy())).long().bincount(minlength=count).tolist()
        for sample in (real, generated)
    ]
    return Shares("clusters", [str(i) for i in range(count)], *counts, len(real), len(generated))


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
