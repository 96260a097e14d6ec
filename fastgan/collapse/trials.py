"""Trains a GAN with one remedy, and measures its modes during and after training."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastgan.collapse.remedies import NONE, Bench
from fastgan.data import load_dataset
from fastgan.data.sources import ResidentImages
from fastgan.metrics.collapse import Collapse, detect_collapse
from fastgan.metrics.evaluation import features_of
from fastgan.metrics.features import FeatureNetwork, Features, load_features
from fastgan.metrics.measure import generated_batches, measure, real_batches
from fastgan.metrics.neighbors import neighbor_scores
from fastgan.metrics.report import collapse_to_json
from fastgan.metrics.shares import Shares
from fastgan.training.health import non_finite_values
from fastgan.training.trainer import Trainer

NUM_MOMENTS = 10

# A mode with its fair share of a tenth has 200 samples; five standard errors of a share of 2% are 1.6%.
NUM_SAMPLES = 2000

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reference:
    """The real images, uint8 [N, C, S, S], that generated images are compared with: the feature network, whose classes
    are the modes, and the features of up to 2,000 of the images."""

    images: Tensor
    network: FeatureNetwork
    real: Features

    def high_quality(self, generated: Features) -> float:
        """The share of generated images with high quality, 0 to 1.

        For points: within three standard deviations of a mode. For images: precision, the share in the neighborhood of
        a real image, with every second real image.
        """
        if self.network.name == "points":
            return sum(self.shares(generated).generated_shares)
        return neighbor_scores(self.real.values[::2], generated.values).precision

    def high_quality_of_real(self) -> float:
        """The share of real images with high quality; for precision, of the other half of the real images."""
        is_points = self.network.name == "points"
        return self.high_quality(self.real if is_points else Features(self.real.values[1::2], None))

    def shares(self, generated: Features) -> Shares:
        """The shares of the modes among real and generated images."""
        return self.network.shares(self.real, generated)


@dataclass(frozen=True)
class Moment:
    """The generator at a step: shares of the modes among 2,000 samples and among the real images, the share of samples
    with high quality, 0 to 1, and some of the samples, uint8 [n, C, S, S]."""

    step: int
    shares: Shares
    high_quality: float
    shown: Tensor


@dataclass(frozen=True)
class Trial:
    """The outcome of training a GAN with a remedy.

    Attributes:
        changes: the settings that the remedy changes.
        moments: ten moments, the last at the last step; fewer if a value became non-finite.
        collapse: the three answers at the last step, or None if a value became non-finite.
        failure: a sentence on the first non-finite value, or None.
    """

    remedy: str
    changes: dict[str, Any]
    moments: list[Moment]
    collapse: Collapse | None
    failure: str | None = None

    @property
    def verdict(self) -> str:
        """``collapsed``, ``not collapsed`` or ``in doubt``, or ``not finite``."""
        return "not finite" if self.collapse is None else self.collapse.verdict

    @property
    def captured(self) -> int:
        """Number of modes captured at the last step; 0 if a value became non-finite."""
        return 0 if self.collapse is None else self.moments[-1].shares.captured

    def against(self, none: "Trial") -> str:
        """The effect of the remedy relative to the trial without one; it works if no answer is ``collapsed``."""
        if self.remedy == none.remedy:
            return ""
        answers = () if self.collapse is None else self.collapse.answers
        if self.verdict == "not collapsed" and all(answer.verdict != "collapsed" for answer in answers):
            return "works" if none.verdict != "not collapsed" else "not needed"
        return "helps, not enough" if self.captured > none.captured else "does not help"


def make_reference(bench: Bench) -> Reference:
    """Loads the real images of a bench, with their features and modes."""
    settings = bench.config(NONE, steps=None, seed=0)
    images = load_dataset(bench.data, resolution=settings.resolution).images
    network = load_features(features_of(bench.data), _CPU)
    return Reference(images, network, measure(real_batches(images[:NUM_SAMPLES]), network)[0])


def moments_of(steps: int) -> list[int]:
    """The steps at which a trial is measured: ten equidistant steps, or all if there are fewer."""
    return sorted({-(-steps * (i + 1) // NUM_MOMENTS) for i in range(NUM_MOMENTS)})


def run_trial(
    bench: Bench,
    remedy: str,
    reference: Reference,
    *,
    steps: int | None,
    seed: int,
    progress: Callable[[int], None] = lambda step: None,
) -> Trial:
    """Trains a GAN of the bench with a remedy, for ``steps`` or the bench's own number, and measures it."""
    config = bench.config(remedy, steps=steps, seed=seed)
    trainer = Trainer.from_config(config, ResidentImages(reference.images, None, _CPU, name=bench.data))
    when = moments_of(config.steps)
    moments: list[Moment] = []
    for step in range(1, config.steps + 1):
        trainer.step()
        if step in when:
            if bad := trainer.first_non_finite():
                return Trial(remedy, bench.remedies()[remedy], moments, None, non_finite_values(*bad).evidence)
            batches = generated_batches(trainer.ema.module, NUM_SAMPLES, seed=seed, labels=None)
            generated, shown = measure(batches, reference.network)
            moments.append(Moment(step, reference.shares(generated), reference.high_quality(generated), shown))
            trainer.reset_figures()
        progress(step)
    collapse = detect_collapse(reference.real, generated, moments[-1].shares, seed=seed)
    return Trial(remedy, bench.remedies()[remedy], moments, collapse)


def to_json(bench: Bench, seed: int, reference: Reference, trials: list[Trial]) -> dict[str, Any]:
    """The report of trials as JSON types, without images; the trial without a remedy comes first."""
    return {
        "format": 1,
        "data": bench.data,
        "seed": seed,
        "settings": dict(bench.settings),
        "modes": list(reference.network.classes.names),
        "high_quality_of_real": reference.high_quality_of_real(),
        "trials": [_trial_to_json(trial, trials[0]) for trial in trials],
    }


def _trial_to_json(trial: Trial, none: Trial) -> dict[str, Any]:
    return {
        "remedy": trial.remedy,
        "settings": trial.changes,
        "verdict": trial.verdict,
        "against_none": trial.against(none),
        "failure": trial.failure,
        "moments": [
            {
                "step": moment.step,
                "captured": moment.shares.captured,
                "high_quality": moment.high_quality,
                "shares": moment.shares.generated_shares,
            }
            for moment in trial.moments
        ],
        "collapse": None if trial.collapse is None else collapse_to_json(trial.collapse),
    }
