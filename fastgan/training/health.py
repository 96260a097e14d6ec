"""Training health: which of the known troubles a run is in, on what evidence, and what to try.

A diagnosis of :class:`Reading`s, in plain Python. A trouble is reported once it was present at every report for a
while, and ends once it was present at none for as long. The thresholds are from runs of the presets on the digits and
of small networks on eight Gaussians, healthy ones and ones broken on purpose; each says what was measured.
"""

import dataclasses
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

# The first reports say little: in a healthy run of the dcgan preset the gap of the logits is 8.6 at step 100, 5.0 at
# step 150 and about 3 from step 200 on, and two generated images differ by 0.27, 0.7 and 0.9 of what two real ones do.
_WARM_UP_STEPS = 200
# How long a trouble must last: a quarter of the training so far, within these limits, and three reports: what comes
# and goes within them is no trouble.
_FEWEST_STEPS = 100
_MOST_STEPS = 500
_FEWEST_REPORTS = 3

# Distance between the mean logits of real and generated images from which the generator learns little, by loss. For a
# Wasserstein critic it is what it is to measure, and no trouble.
# Log-odds: at most 5.0 (dcgan), 1.9 (vanilla) and 0.3 (points with R1) in healthy runs after the warm-up; 10 to 23
# behind a frozen generator and 5 to 290 with 50 times the discriminator's rate. A plain GAN on eight Gaussians goes
# there by itself: 5.0 at step 2400 with lr 2e-4, the generator's loss at 3.4 and rising.
# Hinge: 0.5 (sngan) and 2.9 (mlp on digits) against 9 to 110. Least squares: at most 0.98 against 0.99 to 1.00, where
# all that there is between the labels is 1.
_GAP_TOO_WIDE = {
    "minimax": 6.0,
    "non-saturating": 6.0,
    "logistic": 6.0,
    "relativistic-pairing": 6.0,
    "relativistic-average": 6.0,
    "hinge": 6.0,
    "least-squares": 0.99,
}
# Shares of pairs: at least 0.93 in every run with a discriminator too strong; at most 0.04 before a frozen one, and not
# below 0.49 in a healthy run.
_SURELY_RANKED_RIGHT = 0.9
_RANKED_WRONG = 0.25
# Standard deviation: at most 0.14 in any one report of a healthy run after the warm-up; 0.22 to 0.37 with beta1 0.9 and
# lr 5e-3 or 1e-2.
_SWING_TOO_WIDE = 0.2
_FEWEST_TURNS = 3
# 0.6 and more in healthy runs from step 150 on; 0 to 0.05 of one point or image, 0.13 of a dcgan never trained.
_SPREAD_COLLAPSED = 0.1
# The ratio is 0.4 to 0.8 on points and 1.0 to 1.1 on digits in healthy runs, 2.5 to 4 with two of eight Gaussians and
# 14 with one. Points much tighter than the real ones, about every center, have a high ratio too, but the real ones are
# near: 0.06, against 0.5 with two of eight.
_UNCOVERED = 1.5
_FAR = 0.2
# Of the highest: 1/200 at step 100 and 1/16000 at step 400 behind a saturated sigmoid; at least 1/6 in healthy runs,
# where it falls when the discriminator can no longer tell.
_GRADIENT_LOST = 0.01
# Adam divides by the root mean square of a gradient plus this: a smaller gradient hardly moves a weight.
_ADAM_EPSILON = 1e-8


@dataclass(frozen=True)
class Finding:
    """A trouble that a run is in."""

    name: str
    """One of the six above."""
    evidence: str
    """A sentence with the figures."""
    remedy: str
    """What to try, by the names of settings."""


@dataclass(frozen=True)
class History:
    """What a diagnosis is made from, oldest first; a checkpoint keeps it."""

    readings: tuple[Reading, ...] = ()
    """Those of the recent reports, each over the steps since the one before."""
    highest_gradient: float = 0.0
    """The highest that the generator's gradient has been in a reading of the run."""
    going_on: tuple[str, ...] = ()
    """Names of the findings at the last report."""

    def to_json(self) -> dict[str, Any]:
        """The history as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Reads what :meth:`to_json` gave, also after it was JSON.

        Raises:
            KeyError, TypeError: for anything else.
        """
        readings = tuple(Reading(**reading) for reading in values["readings"])
        return cls(readings, values["highest_gradient"], tuple(values["going_on"]))


def diagnose(history: History, reading: Reading, loss: str) -> tuple[History, list[Finding]]:
    """Finds the troubles that a run is in, from its readings and a new one.

    Args:
        history: of the reports before.
        reading: of this one.
        loss: name of the adversarial loss.

    Returns:
        The history with the reading, and the findings in the order above.
    """
    recent = _recent((*history.readings, reading))
    highest_gradient = max(history.highest_gradient, reading.generator_gradient)
    old_enough = len(recent) >= _FEWEST_REPORTS and recent[0].step > _WARM_UP_STEPS
    findings = []
    for name, (symptom, remedy) in _TROUBLES.items():
        evidence = symptom(recent, loss, highest_gradient)
        sentences = [sentence for sentence in evidence if sentence]
        if sentences and (name in history.going_on or (old_enough and len(sentences) == len(evidence))):
            findings.append(Finding(name, sentences[-1], remedy))
    return History(recent, highest_gradient, tuple(finding.name for finding in findings)), findings


def non_finite_values(name: str, step: int) -> Finding:
    """The finding that ends a run.

    Args:
        name: of the loss or tensor that was the first to go bad.
        step: how many steps had been trained then.
    """
    return Finding(
        NON_FINITE_VALUES,
        f"{name} is the first value that is infinite or not a number, at step {step}",
        "a lower lr, or a lower regularizer_weight",
    )


def _recent(readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    now = readings[-1].step
    num_steps = min(max(now / 4, _FEWEST_STEPS), _MOST_STEPS)
    num_readings = sum(reading.step > now - num_steps for reading in readings)
    return readings[-max(num_readings, _FEWEST_REPORTS) :]


# Whether a trouble was there at each of the recent reports: a sentence, or None.
_Evidence = list[str | None]


def _discriminator_too_strong(recent: tuple[Reading, ...], loss: str, highest_gradient: float) -> _Evidence:
    widest = _GAP_TOO_WIDE.get(loss, math.inf)
    return [
        f"real images have logits {r.real_score - r.fake_score:.1f} higher than generated ones in the mean "
        f"({widest:g} is too wide), and {r.ranked_right:.1%} of pairs are ranked right"
        if r.real_score - r.fake_score >= widest and r.ranked_right >= _SURELY_RANKED_RIGHT
        else None
        for r in recent
    ]


def _generator_too_strong(recent: tuple[Reading, ...], loss: str, highest_gradient: float) -> _Evidence:
    return [
        f"the discriminator takes generated images for real: it ranks only {r.ranked_right:.1%} of pairs right, where "
        "guessing has 50%"
        if r.ranked_right <= _RANKED_WRONG
        else None
        for r in recent
    ]


def _mode_collapse(recent: tuple[Reading, ...], loss: str, highest_gradient: float) -> _Evidence:
    def sentence(r: Reading) -> str | None:
        if r.spread <= _SPREAD_COLLAPSED:
            return f"two generated images differ by {r.spread:.1%} of what two real ones do"
        if r.real_to_fake >= max(_FAR, _UNCOVERED * r.fake_to_real):
            times = r.real_to_fake / max(r.fake_to_real, 1e-9)
            return (
                f"a real image is {times:.1f} times as far from the nearest generated one as a generated one from the "
                "nearest real one: some kinds of real images are not generated"
            )
        return None

    return [sentence(r) for r in recent]


def _vanishing_gradients(recent: tuple[Reading, ...], loss: str, highest_gradient: float) -> _Evidence:
    return [
        f"the root mean square of the generator's gradient is {r.generator_gradient:.1e} a weight, once "
        f"{highest_gradient:.1e}, while the discriminator ranks {r.ranked_right:.1%} of pairs right"
        if r.generator_gradient <= max(_GRADIENT_LOST * highest_gradient, _ADAM_EPSILON)
        and r.ranked_right >= _SURELY_RANKED_RIGHT
        else None
        for r in recent
    ]


def _oscillation(recent: tuple[Reading, ...], loss: str, highest_gradient: float) -> _Evidence:
    """Over all the recent reports: a swing may take longer than from one to the next. It goes to and fro; what rises or
    falls once, such as the discriminator's lead at the beginning, is none."""
    mean = sum(r.ranked_right for r in recent) / len(recent)
    # The median, so that one report does not decide.
    variance = statistics.median(r.ranked_right_variance for r in recent)
    if sum((a.ranked_right > mean) != (b.ranked_right > mean) for a, b in pairwise(recent)) >= _FEWEST_TURNS:
        variance += sum((r.ranked_right - mean) ** 2 for r in recent) / len(recent)
    swing = math.sqrt(max(variance, 0.0))
    sentence = (
        f"the networks overtake each other in turns: the share of pairs that the discriminator ranks right swings by "
        f"{swing:.2f} (standard deviation) about {mean:.2f}"
    )
    return [sentence if swing >= _SWING_TOO_WIDE else None] * len(recent)


_TROUBLES: dict[str, tuple[Callable[[tuple[Reading, ...], str, float], _Evidence], str]] = {
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
    OSCILLATION: (
        _oscillation,
        "a lower beta1 (0.5 or 0), a lower lr, or a regularizer (r1)",
    ),
}
