"""Recommends the best of several generators for each purpose."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastgan.metrics.report import Evaluation, require_comparable
from fastgan.metrics.scores import SCALES, differ


@dataclass(frozen=True)
class Recommendation:
    """The recommended run for a purpose; ``sure`` if it differs from every other run with 95% confidence."""

    purpose: str
    run: str
    reason: str
    sure: bool


def recommend(evaluations: Sequence[Evaluation]) -> list[Recommendation]:
    """Recommends one run per purpose, from at least two evaluations.

    Precision decides for quality without variety, recall for augmentation, FID for general use. Among runs whose FID
    does not differ from the best with 95% confidence, F1 decides: the harmonic mean of precision and recall.
    """
    require_comparable({evaluation.run: evaluation.basis for evaluation in evaluations})
    return [
        _by_one("quality alone", evaluations, "precision"),
        _by_one("augmentation", evaluations, "recall"),
        _general(evaluations),
    ]


def comparison_notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Sentences on the limits of a comparison."""
    sizes = sorted({evaluation.basis.image_size for evaluation in evaluations})
    if len(sizes) == 1:
        return []
    return [f"images of {' and '.join(sizes)} are compared, each with real ones of its own size"]


def _by_one(purpose: str, evaluations: Sequence[Evaluation], name: str) -> Recommendation:
    best, *others = _ranked(evaluations, name)
    alike = _alike(best, others, name)
    values = _value(best, name), _value(others[0], name)
    reason = f"its {SCALES[name].label} is best, {values[0]}; {others[0].run} is next with {values[1]}"
    if alike:
        reason += f"; {_within(alike)}"
    return Recommendation(purpose, best.run, reason, not alike)


def _general(evaluations: Sequence[Evaluation]) -> Recommendation:
    best, *others = _ranked(evaluations, "fid")
    alike = _alike(best, others, "fid")
    if not alike:
        return _by_one("general use", evaluations, "fid")
    balanced = _by_one("general use", [best, *alike], "f1")
    reason = (
        f"the FID of {best.run} is lowest, {_value(best, 'fid')}, and {_within(alike)}; of these {balanced.run} "
        "has the best balance of precision and recall"
    )
    return replace(balanced, reason=f"{reason}: {balanced.reason}")


def _ranked(evaluations: Sequence[Evaluation], name: str) -> list[Evaluation]:
    return sorted(evaluations, key=lambda e: e.scores[name].value, reverse=SCALES[name].higher_is_better)


def _alike(best: Evaluation, others: Sequence[Evaluation], name: str) -> list[Evaluation]:
    return [other for other in others if not differ(best.scores[name], other.scores[name])]


def _value(evaluation: Evaluation, name: str) -> str:
    score = evaluation.scores[name]
    low, high = score.interval(SCALES[name])
    return f"{score.value:.3g} ({low:.3g} to {high:.3g})"


def _within(alike: Sequence[Evaluation]) -> str:
    runs = " and ".join(evaluation.run for evaluation in alike)
    return f"the difference to {runs} is within the confidence intervals"
