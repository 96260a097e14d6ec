"""The report of an evaluation: its subject, basis and scores; written as JSON and read back."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from fastgan.metrics import MetricsError
from fastgan.metrics.collapse import Collapse
from fastgan.metrics.features import FeatureNetwork
from fastgan.metrics.scores import SCALES, Score

_FORMAT = 1


@dataclass(frozen=True)
class Basis:
    """The features, data and counts behind scores; :func:`require_comparable` checks which must be equal.

    ``features``, ``features_digest`` and ``filter`` are those of a :class:`FeatureNetwork`, ``image_size`` is that of
    real and generated images, such as 1x32x32, and ``data_digest`` the SHA-256 of the chosen real images at that size.
    """

    features: str
    features_digest: str
    filter: str
    image_size: str
    data: str
    data_digest: str
    num_real: int
    num_generated: int

    @classmethod
    def of(cls, features: FeatureNetwork, *others: Any) -> Self:
        """The basis of scores by a feature network; ``others`` are the attributes from ``image_size`` on."""
        return cls(features.name, features.digest, features.filter, *others)


# The attributes that must be equal, and their names in a sentence.
_COMPARED = {
    "features": "features {}",
    "features_digest": "features of the digest {:.12}",
    "filter": "the filter {!r}",
    "num_real": "{:,} real images",
    "num_generated": "{:,} generated images",
}


@dataclass(frozen=True)
class Evaluation:
    """The scores of one run.

    Attributes:
        run: folder of the run, or name of the images.
        step: step of the checkpoint; None for images, and for exports that record none.
        seed: seed of the latents, the choice of real images, and the resampling.
        scores: scores by name, in the order of ``SCALES``; without class logits there is no Inception Score.
        collapse: the three answers and the shares, as JSON types.
        notes: sentences on the limits of the scores.
        picture: real and generated images with the shares, uint8 [3, H, W]; None if read from a file.
    """

    run: str
    step: int | None
    seed: int
    basis: Basis
    scores: Mapping[str, Score]
    collapse: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)
    picture: Tensor | None = field(default=None, compare=False, repr=False)

    def __getattr__(self, name: str) -> float:
        """The value of a score: ``fid``, ``kid``, ``precision`` and so on."""
        if name not in SCALES or name not in self.scores:
            raise AttributeError(f"an evaluation has no attribute {name!r}")
        return self.scores[name].value


def collapse_to_json(collapse: Collapse) -> dict[str, Any]:
    """The answers, the verdict and the shares, as JSON types."""
    shown = collapse.shown
    return {
        "verdict": collapse.verdict,
        "answers": [asdict(answer) | {"verdict": answer.verdict} for answer in collapse.answers],
        "shares": {
            "kind": shown.kind,
            "names": list(shown.names),
            "real": shown.real_shares,
            "generated": shown.generated_shares,
            "captured": shown.captured,
            "distance": shown.distance(),
        },
    }


def to_json(evaluations: list[Evaluation]) -> dict[str, Any]:
    """Reports as JSON types, which :func:`read_report` reads back."""
    rows = []
    for evaluation in evaluations:
        scores = {}
        for name, score in evaluation.scores.items():
            low, high = score.interval(SCALES[name])
            scores[name] = asdict(score) | {"low": low, "high": high}
        rows.append(asdict(replace(evaluation, picture=None)) | {"scores": scores})
        del rows[-1]["picture"]
    return {"format": _FORMAT, "evaluations": rows}


def read_report(path: Path) -> list[Evaluation]:
    """Reads the evaluations of a report file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if content["format"] != _FORMAT:
            raise MetricsError(f"report {str(path)!r} has format {content['format']!r}, expected {_FORMAT}")
        return [_evaluation(row) for row in content["evaluations"]]
    except OSError as error:
        raise MetricsError(f"report {str(path)!r} cannot be read: {error.strerror}") from None
    except MetricsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetricsError(f"file {str(path)!r} is not a report of 'fastgan evaluate'") from error


def _evaluation(row: dict[str, Any]) -> Evaluation:
    scores = {
        name: Score(float(found["value"]), float(found["error"]), found["reference"])
        for name, found in row.pop("scores").items()
        if name in SCALES
    }
    if not all(math.isfinite(score.value) and math.isfinite(score.error) for score in scores.values()):
        raise ValueError("scores are not finite")
    return Evaluation(**row | {"basis": Basis(**row["basis"]), "scores": scores})


def require_comparable(bases: Mapping[str, Basis]) -> None:
    """Refuses to compare scores with different features, filter, counts or data.

    Image sizes may differ, as between two models; generated images are compared with real ones of their size.

    Args:
        bases: bases by their names in errors.
    """
    (first, expected), *others = bases.items()
    for name, basis in others:
        compared = dict(_COMPARED)
        # The digest is that of the resized images, so it is compared only for equal sizes.
        if basis.image_size == expected.image_size:
            compared["data_digest"] = "real images of the digest {:.12}"
        else:
            compared["data"] = "real images of {!r}"
        for attribute, words in compared.items():
            one, other = getattr(expected, attribute), getattr(basis, attribute)
            if one != other:
                raise MetricsError(
                    f"the scores of {first!r} and {name!r} cannot be compared: those of {first!r} are of "
                    f"{words.format(one)}, those of {name!r} of {words.format(other)}"
                )
