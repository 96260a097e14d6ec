"""For each data set a GAN that collapses, and remedies from the literature.

This module imports only the standard library and the settings, so that ``fastgan --help`` does not wait for torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastgan.errors import unknown
from fastgan.training.config import SettingsError, TrainingConfig, load_preset

# Name of the GAN without a remedy. It is always trained, and the remedies are compared with it.
NONE = "none"


@dataclass(frozen=True)
class Bench:
    """A data set, and the plain GAN that collapses on it.

    Attributes:
        data: name of the data set.
        settings: settings of the plain GAN.
        penalty_weight: lambda of WGAN-GP and DRAGAN.
        r1_gamma: gamma of R1 and R2.
    """

    data: str
    settings: Mapping[str, Any]
    penalty_weight: float
    r1_gamma: float

    def remedies(self) -> dict[str, dict[str, Any]]:
        """The settings that each remedy changes, by the remedy's name."""
        # Gidel et al. 2019 (https://arxiv.org/abs/1807.04740): with momentum, alternating steps cycle.
        no_momentum = {"no-momentum": {"beta1": 0.0}} if self.settings["beta1"] else {}
        return {
            NONE: {},
            **no_momentum,
            # One-sided: Salimans et al. 2016 (https://arxiv.org/abs/1606.03498), section 3.4.
            "label-smoothing": {"real_label": 0.9},
            # A discriminator faster than the generator: Heusel et al. 2017 (https://arxiv.org/abs/1706.08500).
            "two-time-scales": {"generator_lr": self.settings["lr"] / 4},
            "minibatch-stddev": {"minibatch": "stddev"},
            "minibatch-discrimination": {"minibatch": "discrimination"},
            "spectral-norm": {"spectral_norm": True},
            "r1": {"regularizer": "r1", "regularizer_weight": self.r1_gamma},
            "wgan-gp": {"loss": "wasserstein", "regularizer": "wgan-gp", "regularizer_weight": self.penalty_weight},
        }

    def config(self, remedy: str, *, steps: int | None, seed: int) -> TrainingConfig:
        """The settings of a trial; ``steps`` are those of the plain GAN if ``None``."""
        settings = {**self.settings, **self.remedies()[remedy], "seed": seed, "device": "cpu"}
        return TrainingConfig.from_mapping(settings | ({} if steps is None else {"steps": steps}))


BENCHES = {
    "gaussians": Bench(
        "gaussians",
        # With this optimizer, GANs with penalties find every mode. With that of gaussians-collapse, with momentum 0.9,
        # R1 and WGAN-GP find none: there the optimizer causes the collapse.
        {**load_preset("gaussians"), "loss": "non-saturating", "regularizer": "none", "steps": 800},
        # Smaller than for images: a mode is 0.04 wide in a range of 2, so a critic that separates its center from its
        # edge needs slopes far above those that a weight of 10 allows.
        penalty_weight=0.1,
        r1_gamma=0.02,
    ),
    "digits": Bench(
        "digits",
        {
            "model": "mlp",
            "loss": "non-saturating",
            "data": "digits",
            "resolution": 16,
            "base_channels": 128,
            "latent_dim": 32,
            "batch_size": 64,
            "lr": 1e-3,
            # Four times the discriminator's rate, so that the discriminator falls behind: with momentum all images show
            # one digit at steps 200 and 300, and four digits at 400. Without momentum, or with equal rates, all ten
            # digits are found.
            "generator_lr": 4e-3,
            "beta1": 0.5,
            "beta2": 0.99,
            "ema_decay": 0.99,
            "steps": 400,
        },
        penalty_weight=10.0,
        r1_gamma=10.0,
    ),
}


def find_bench(data: str) -> Bench:
    """Finds the bench of a data set."""
    if data not in BENCHES:
        raise SettingsError(unknown("--data", data, BENCHES))
    return BENCHES[data]


def choose_remedies(names: list[str], bench: Bench) -> list[str]:
    """The named remedies, or all if none is named, in the bench's order; "none" always comes first."""
    known = bench.remedies()
    for name in names:
        if name not in known:
            raise SettingsError(unknown("remedy", name, known))
    return [name for name in known if not names or name == NONE or name in names]
