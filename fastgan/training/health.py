"""Training health: diagnoses known problems of a run, with evidence and remedies.

The diagnosis reads :class:`Reading`s, in plain Python. A problem is reported once it is present at every report of a
period, and ends once it is present at no report of a period. The thresholds come from healthy and deliberately broken
runs of the presets on the digits and of small networks on eight Gaussians; each comment gives the measured values.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from fastgan.training.statistics import Reading

DISCRIMINATOR_TOO_STRONG = "discriminator too strong"
GENERATOR_TOO_STRONG = "generator too strong"
MODE_COLLAPSE = "mode collapse"
VANISHING_GRADIENTS = "vanishing gradients"
OSCILLATION = "oscillation"
NON_FINITE_VALUES = "non-finite values"

# Early reports mean little: in a healthy run of the dcgan preset the gap of the logits is 8.6 at step 100, 5.0 at step
# 150 and about 3 from step 200 on; the mean distance of two generated images is 0.27, 0.7 and 0.9 of that of two real
# ones.
_WARM_UP_STEPS = 200
# How long a problem must last: a quarter of the steps so far, within these limits, and at least three reports. Shorter
# ones are not reported.
_FEWEST_STEPS = 100
_MOST_STEPS = 500
_FEWEST_REPORTS = 3

# Gap between the mean logits of real and generated images above which the generator learns little, by loss. A
# Wasserstein critic is absent: its gap is the distance that it estimates, not a problem.
# Log-odds: at most 5.0 (dcgan), 1.9 (vanilla) and 0.3 (points with R1) in healthy runs after the warm-up; 10 to 23 with
# a frozen generator and 5 to 290 with 50 times the discriminator's learning rate. A plain GAN on eight Gaussians gets
# there by itself: 5.0 at step 2400 with lr 2e-4, with the generator's loss at 3.4 and rising.
# Hinge: 0.5 (sngan) and 2.9 (mlp on digits) in healthy runs, 9 to 110 in broken ones. Least squares: at most 0.98 in
# healthy runs, 0.99 to 1.00 in broken ones; the labels are 1 apart.
_GAP_TOO_WIDE = {
    "minimax": 6.0,
    "non-saturating": 6.0,
    "logistic": 6.0,
    "relativistic-pairing": 6.0,
    "relativistic-average": 6.0,
    "hinge": 6.0,
    "least-squares": 0.99,
}
# Shares of pairs ranked right: at least 0.93 in every run with a discriminator too strong; at most 0.04 with a frozen
# discriminator, and at least 0.49 in healthy runs.
_SURELY_RANKED_RIGHT = 0.9
_RANKED_WRONG = 0.25
# Standard deviation of that share: at most 0.14 in any report of a healthy run after the warm-up; 0.22 to 0.37 with
# beta1 0.9 and lr 5e-3 or 1e-2.
_SWING_TOO_WIDE = 0.2
_FEWEST_TURNS = 3
# Spread: at least 0.6 in healthy runs from step 150 on; 0 to 0.05 for a single point or image, 0.13 for an untrained
# dcgan.
_SPREAD_COLLAPSED = 0.1
# real_to_fake / fake_to_real is 0.4 to 0.8 on points and 1.0 to 1.1 on digits in healthy runs, 2.5 to 4 with two of
# eight Gaussians and 14 with one. Generated points that are too tight around every center have a high ratio too, but
# real_to_fake is 0.06 there, and 0.5 with two of eight.
_UNCOVERED = 1.5
_FAR = 0.2
# Share of the run's highest gradient: 1/200 at step 100 and 1/16000 at step 400 with a saturated sigmoid; at least 1/6
# in healthy runs, where it falls once the discriminator cannot tell real from generated.
_GRADIENT_LOST = 0.01
# Adam divides by the root mean square of the gradient plus this, so a smaller gradient hardly moves a weight.
_ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Finding:
    """A problem of a run."""

    name: str
    evidence: str
    """One sentence with the measured values."""
    remedy: str
    """Remedies to try, as names of settings."""


@dataclass(frozen=True)
class History:
    """The input of a diagnosis; checkpoints store it."""

    readings: tuple[Reading, ...] = ()
    """Readings of the recent reports, oldest first, each over the steps since the report before."""
    highest_gradient: float = 0.0
    """The highest generator gradient in the run's readings so far."""
    ongoing: tuple[str, ...] = ()
    """Names of the findings at the last report."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what ``dataclasses.asdict`` and JSON make of a history."""
        readings = tuple(Reading(**reading) for reading in values["readings"])
        # Older checkpoints have another name.
        ongoing = values["ongoing"] if "ongoing" in values else values["going_on"]
        return cls(readings, values["highest_gradient"], tuple(ongoing))


def diagnose(history: History, reading: Reading, loss: str) -> tuple[History, list[Finding]]:
    """Finds the problems of a run with this loss from its history up to the previous report and a new reading.

    Returns the history with the new reading, and the findings in the order above.
    """
    num_steps = min(max(reading.step / 4, _FEWEST_STEPS), _MOST_STEPS)
    readings = *history.readings, reading
    num_recent = sum(reading.step - earlier.step < num_steps for earlier in readings)
    recent = readings[-max(num_recent, _FEWEST_REPORTS) :]
    highest_gradient = max(history.highest_gradient, reading.generator_gradient)
    old_enough = len(recent) >= _FEWEST_REPORTS and recent[0].step > _WARM_UP_STEPS
    findings = []
    for name, (symptom, remedy) in _PROBLEMS.items():
        if name == OSCILLATION:
            evidence = [symptom(recent)]
        else:
            evidence = [symptom(reading, loss, highest_gradient) for reading in recent]
        sentences = [sentence for sentence in evidence if sentence]
        if sentences and (name in history.ongoing or (old_enough and len(sentences) == len(evidence))):
            findings.append(Finding(name, sentences[-1], remedy))
    return History(recent, highest_gradient, tuple(finding.name for finding in findings)), findings


def non_finite_values(name: str, step: int) -> Finding:
    """The finding that ends a run, with the name of the first loss or tensor that was not finite and its step."""
    return Finding(
        NON_FINITE_VALUES,
        f"{name} is the first value that is infinite or not a number, at step {step}",
        "a lower lr, or a lower regularizer_weight",
    )


def _discriminator_too_strong(r: Reading, loss: str, highest_gradient: float) -> str | None:
    gap, widest = r.real_score - r.fake_score, _GAP_TOO_WIDE.get(loss, math.inf)
    if gap >= widest and r.ranked_right >= _SURELY_RANKED_RIGHT:
        return (
            f"real images have logits {gap:.1f} higher than generated ones in the mean ({widest:g} is too wide), and "
            f"{r.ranked_right:.1%} of pairs are ranked right"
        )
    return None


def _generator_too_strong(r: Reading, loss: str, highest_gradient: float) -> str | None:
    if r.ranked_right <= _RANKED_WRONG:
        return (
            f"the discriminator takes generated images for real: it ranks only {r.ranked_right:.1%} of pairs right, "
            "where guessing has 50%"
        )
    return None


def _mode_collapse(r: Reading, loss: str, highest_gradient: float) -> str | None:
    if r.spread <= _SPREAD_COLLAPSED:
        return f"two generated images differ by {r.spread:.1%} of what two real ones do"
    if r.real_to_fake >= max(_FAR, _UNCOVERED * r.fake_to_real):
        return (
            f"a real image is {r.real_to_fake / max(r.fake_to_real, 1e-9):.1f} times as far from the nearest generated "
            "one as a generated one from the nearest real one: some kinds of real images are not generated"
        )
    return None


def _vanishing_gradients(r: Reading, loss: str, highest_gradient: float) -> str | None:
    lost = r.generator_gradient <= max(_GRADIENT_LOST * highest_gradient, _ADAM_EPSILON)
    if lost and r.ranked_right >= _SURELY_RANKED_RIGHT:
        return (
            f"the root mean square of the generator's gradient is {r.generator_gradient:.1e} a weight, once "
            f"{highest_gradient:.1e}, while the discriminator ranks {r.ranked_right:.1%} of pairs right"
        )
    return None


def _oscillation(recent: tuple[Reading, ...]) -> str | None:
    """Judges all recent reports together: a swing may take longer than an interval between two. It must turn several
    times: a single rise or fall, such as the discriminator's early lead, is not an oscillation."""
    mean = sum(r.ranked_right for r in recent) / len(recent)
    # The median, so that one report is not decisive.
    variance = statistics.median(r.ranked_right_variance for r in recent)
    if sum((a.ranked_right > mean) != (b.ranked_right > mean) for a, b in pairwise(recent)) >= _FEWEST_TURNS:
        variance += sum((r.ranked_right - mean) ** 2 for r in recent) / len(recent)
    swing = math.sqrt(max(variance, 0.0))
    if swing >= _SWING_TOO_WIDE:
        return (
            f"the networks overtake each other in turns: the share of pairs that the discriminator ranks right swings "
            f"by {swing:.2f} (standard deviation) about {mean:.2f}"
        )
    return None


# Each function returns a sentence with the evidence if a reading has the problem; that of oscillation takes them all.
_PROBLEMS: dict[str, tuple[Callable[..., str | None], str]] = {
    DISCRIMINATOR_TOO_STRONG: (
        _discriminator_too_strong,
        "a lower discriminator_lr, smoothed labels (real_label=0.9), or a regularizer or spectral_norm",
    ),
    GENERATOR_TOO_STRONG: (
        _generator_too_strong,
        "a higher discriminator_lr, more discriminator_steps, or a lower generator_lr",
    ),
    MODE_COLLAPSE: (
        _mode_collapse,
        "a regularizer (r1 or wgan-gp), spectral_norm, a larger batch_size, or a lower lr",
    ),
    VANISHING_GRADIENTS: (
        _vanishing_gradients,
        "a loss that does not saturate (non-saturating, or wasserstein with regularizer wgan-gp), or a lower lr",
    ),
    OSCILLATION: (_oscillation, "a lower beta1 (0.5 or 0), a lower lr, or a regularizer (r1)"),
}
