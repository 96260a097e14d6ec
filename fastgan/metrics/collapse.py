"""Mode collapse, answered three ways: by looking, by clustering, and by a score."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.metrics.features import Features
from fastgan.metrics.neighbours import neighbour_scores
from fastgan.metrics.shares import Shares

# Of the real images, in what generated images leave out.
COLLAPSED_FROM = 0.25

# Of the precision of real images. Coverage tells nothing of variety where most images are unlike the real ones.
_MIN_PRECISION = 0.5

_MAX_CLUSTERS = 20
# Real images in a cluster on average, so that a lost one is not lost by chance.
_PER_CLUSTER = 50

# Distances grow with the square of the count, and a share of 5,000 is right to 0.7%.
_MAX_SCORED = 5000


@dataclass(frozen=True)
class Answer:
    """One of the three answers.

    Attributes:
        way: ``looking``, ``clustering`` or ``score``.
        lost: the share of the real images that the generated ones leave out, 0 to 1, or None where it cannot tell.
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
    """The three answers, and what the picture for looking shows.

    Attributes:
        answers: by looking, by clustering and by a score.
        shown: the classes, or the clusters where no classes are known.
    """

    answers: tuple[Answer, Answer, Answer]
    shown: Shares

    @property
    def verdict(self) -> str:
        """What most answers say: ``collapsed`` or ``not collapsed``; ``in doubt`` where they are split."""
        verdicts = [answer.verdict for answer in self.answers]
        votes = verdicts.count("collapsed") - verdicts.count("not collapsed")
        return "in doubt" if votes == 0 else "collapsed" if votes > 0 else "not collapsed"


def judge_collapse(real: Features, generated: Features, classes: Shares | None, *, seed: int) -> Collapse:
    """Judges whether generated images leave out a quarter or more of what the real ones show.

    - By looking: the classes that somebody who looks at the picture would miss, as a classifier finds them; without a
      classifier there is the picture alone.
    - By clustering: k-means of the real features; the real share of the clusters that generated images leave out.
      After Richardson and Weiss 2018 (https://arxiv.org/abs/1805.12462), who count the bins that differ.
    - By a score: how far coverage and recall fall short of those of real images, in samples of equal size, by the one
      that falls short less: coverage alone is low for images of all kinds that are of poor quality. No answer where
      precision is less than half of that of real images.

    Args:
        real: at least 12 images.
        generated: at least 12 images.
        classes: of all images, or None where there is no classifier.
        seed: of the clusters and the samples.
    """
    clusters = _clusters(real.values, generated.values, seed)
    return Collapse(
        (_by_looking(classes), _by_clustering(clusters), _by_score(real, generated, seed)), classes or clusters
    )


def _by_looking(classes: Shares | None) -> Answer:
    if classes is None:
        return Answer("looking", None, "no classifier knows these images, so the picture is to be looked at")
    lost = [classes.names[i] for i in classes.lost()]
    seen = f"{classes.captured} of {sum(count > 0 for count in classes.real)} {classes.kind} are there"
    missing = f", and {_joined(lost)} not" if lost else ""
    return Answer(
        "looking", classes.lost_share(), f"{seen}{missing}; the shares are {classes.distance():.0%} from the real ones"
    )


def _by_clustering(clusters: Shares) -> Answer:
    lost = len(clusters.lost())
    evidence = (
        f"{lost} of {len(clusters.names)} clusters of the real images are left out, which hold "
        f"{clusters.lost_share():.0%} of them; equal shares have p = {clusters.p_value():.2g} (chi-squared)"
    )
    return Answer("clustering", clusters.lost_share(), evidence)


def _by_score(real: Features, generated: Features, seed: int) -> Answer:
    random = torch.Generator().manual_seed(seed)
    size = min(len(real.values) // 2, len(generated.values), _MAX_SCORED)
    order = torch.randperm(len(real.values), generator=random)
    first, second = real.values[order[:size]], real.values[order[size : 2 * size]]
    of_real = neighbour_scores(first, second)
    chosen = torch.randperm(len(generated.values), generator=random)[:size]
    found = neighbour_scores(first, generated.values[chosen])
    evidence = (
        f"coverage is {found.coverage:.2f} and recall {found.recall:.2f}, and {of_real.coverage:.2f} and "
        f"{of_real.recall:.2f} for as many real images"
    )
    if found.precision < _MIN_PRECISION * of_real.precision:
        unlike = (
            f"precision is {found.precision:.2f}, so most images are unlike the real ones and show no variety of them"
        )
        return Answer("score", None, f"{evidence}; {unlike}")
    kept = max(found.coverage / of_real.coverage, found.recall / max(of_real.recall, 1 / size))
    return Answer("score", max(0.0, 1 - kept), evidence)


def _clusters(real: Tensor, generated: Tensor, seed: int) -> Shares:
    # scikit-learn takes seconds to import.
    from sklearn.cluster import KMeans

    count = max(2, min(_MAX_CLUSTERS, len(real) // _PER_CLUSTER))
    # Seeds of numpy have 32 bits.
    machine = KMeans(count, n_init=4, random_state=seed % 2**32).fit(real.numpy())
    counts = [
        torch.from_numpy(machine.predict(sample.numpy())).long().bincount(minlength=count).tolist()
        for sample in (real, generated)
    ]
    return Shares("clusters", [str(i) for i in range(count)], *counts, len(real), len(generated))


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
