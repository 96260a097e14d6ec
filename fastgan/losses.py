"""Adversarial losses on raw logits, looked up by name.

Papers write the logarithm of a sigmoid; the code uses softplus: ``-log sigmoid(t) = softplus(-t)``. If the sigmoid
rounds to zero, its logarithm is infinite and the gradient NaN, while softplus is correct for every finite logit.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor
from torch.nn.functional import relu, softplus

from fastgan.errors import unknown


class Loss(Protocol):
    """An adversarial loss: a scalar for the discriminator and one for the generator, from logits [N, ...]."""

    relativistic: ClassVar[bool]
    """Whether the generator's loss also needs the logits of real images."""
    takes_logits: ClassVar[bool] = True
    """Whether the loss takes raw logits, so that a sigmoid before it is an error."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor: ...

    def balance(self) -> tuple[float, float] | None:
        """D(x) = D(G(z)) and the generator's loss for indistinguishable images; None if logits are not log-odds."""
        return None


@dataclass(frozen=True)
class _Labeled(Loss):
    """A loss that compares logits with labels.

    Labels other than 1 and 0 smooth the discriminator's loss (Salimans et al. 2016, https://arxiv.org/abs/1606.03498,
    section 3.4, with one-sided smoothing: 0.9 and 0). The generator's target is never smoothed.
    """

    relativistic: ClassVar[bool] = False
    real_label: float = 1.0
    fake_label: float = 0.0


class NonSaturating(_Labeled):
    """The non-saturating logistic loss (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, section 3).

    It is also StyleGAN's logistic loss (Karras et al. 2019, https://arxiv.org/abs/1812.04948, appendix C).
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean softplus(-real) + mean softplus(fake)``; 2 log 2 at equilibrium.

        With smoothed labels, the terms are the cross-entropies ``label softplus(-t) + (1 - label) softplus(t)``.
        """
        return _cross_entropy(real_logits, self.real_label) + _cross_entropy(fake_logits, self.fake_label)

    def balance(self) -> tuple[float, float] | None:
        """The mean of the two labels, 0.5 without one-sided smoothing, and the generator's loss there."""
        fooled = (self.real_label + self.fake_label) / 2
        return fooled, -math.log(fooled)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """``mean softplus(-fake)``; log 2 at equilibrium."""
        return softplus(-fake_logits).mean()


class Minimax(NonSaturating):
    """The minimax loss (Goodfellow et al. 2014, eq. 1). Its gradient saturates: the generator learns nothing from
    images that are rejected with certainty. The discriminator's loss equals :class:`NonSaturating`'s."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """``mean log(1 - sigmoid(fake)) = -mean softplus(fake)``; -log 2 at equilibrium."""
        return -softplus(fake_logits).mean()

    def balance(self) -> tuple[float, float] | None:
        fooled = (self.real_label + self.fake_label) / 2
        return fooled, math.log(1 - fooled)


class LeastSquares(_Labeled):
    """LSGAN (Mao et al. 2017, https://arxiv.org/abs/1611.04076, eq. 2 with the labels of eq. 9: a = 0, b = c = 1)."""

    takes_logits: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean (real - real_label)^2 / 2 + mean (fake - fake_label)^2 / 2``."""
        return ((real_logits - self.real_label).square().mean() + (fake_logits - self.fake_label).square().mean()) / 2

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """``mean (fake - 1)^2 / 2``."""
        return (fake_logits - 1).square().mean() / 2


class Wasserstein(Loss):
    """The Wasserstein loss (Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875, algorithm 1).

    The loss estimates a distance only for a critic with bounded slope, by a gradient penalty or spectral normalization.
    """

    relativistic: ClassVar[bool] = False

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean fake - mean real``, the negative distance."""
        return fake_logits.mean() - real_logits.mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        """``-mean fake``."""
        return -fake_logits.mean()


class Hinge(Wasserstein):
    """The hinge loss (Lim and Ye 2017, https://arxiv.org/abs/1705.02894; Miyato et al. 2018,
    https://arxiv.org/abs/1802.05957, eqs. 16 and 17); the generator's loss equals :class:`Wasserstein`'s."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean max(0, 1 - real) + mean max(0, 1 + fake)``."""
        return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


class RelativisticPairing(Loss):
    """RSGAN: each real image against one fake (Jolicoeur-Martineau 2018, https://arxiv.org/abs/1807.00734).

    Called RpGAN in Huang et al. 2024 (R3GAN, https://arxiv.org/abs/2501.05441, eq. 2 with the logistic f).
    """

    relativistic: ClassVar[bool] = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean softplus(fake - real)``; log 2 at equilibrium."""
        return softplus(fake_logits - real_logits).mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor) -> Tensor:
        """``mean softplus(real - fake)``, the discriminator's loss with real and fake exchanged."""
        return self.discriminator(fake_logits, real_logits)


class RelativisticAverage(RelativisticPairing):
    """RaSGAN: each image against the mean of the other kind (Jolicoeur-Martineau 2018)."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean softplus(mean fake - real) + mean softplus(fake - mean real)``; 2 log 2 at equilibrium."""
        return softplus(fake_logits.mean() - real_logits).mean() + softplus(fake_logits - real_logits.mean()).mean()


LOSSES: dict[str, type[Loss]] = {
    "minimax": Minimax,
    "non-saturating": NonSaturating,
    "logistic": NonSaturating,
    "wasserstein": Wasserstein,
    "hinge": Hinge,
    "least-squares": LeastSquares,
    "relativistic-pairing": RelativisticPairing,
    "relativistic-average": RelativisticAverage,
}


class _Own(Loss):
    """A user's loss: two functions of the discriminator's output, which may be anything."""

    takes_logits: ClassVar[bool] = False

    def __init__(self, discriminator: Callable[..., Tensor], generator: Callable[..., Tensor], relativistic: bool):
        self.discriminator, self._generator, self.relativistic = discriminator, generator, relativistic

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
        return self._generator(fake_logits, real_logits) if self.relativistic else self._generator(fake_logits)


def get_loss(name: Any, *, real_label: float = 1.0, fake_label: float = 0.0) -> Loss:
    """Makes a loss from its name in ``LOSSES``, or from functions.

    Args:
        name: name of the loss; or two functions, a pair or the methods ``discriminator`` and ``generator`` of an
            object. They map outputs [N, ...] of the discriminator to a scalar: the discriminator's loss takes (real,
            fake), the generator's loss (fake) or (fake, real).
        real_label, fake_label: the discriminator's targets for real and generated images (label smoothing); the
            generator's loss does not depend on them.

    Raises:
        ValueError: for an unknown name, other objects, or smoothed labels for a loss without labels; one sentence.
    """
    if not isinstance(name, str):
        pair = (
            name if isinstance(name, tuple | list) else [getattr(name, m, None) for m in ("discriminator", "generator")]
        )
        if len(pair) != 2 or not all(map(callable, pair)):
            raise ValueError(
                f"the loss is {name!r}, expected a name, a pair of functions (the discriminator's, of real and fake "
                "logits, and the generator's, of fake ones), or an object with methods discriminator and generator"
            )
        if (real_label, fake_label) != (1.0, 0.0):
            raise ValueError(
                "a loss of your own has no labels to smooth with real_label and fake_label; expected 1 and 0"
            )
        takes = inspect.signature(pair[1]).parameters.values()
        required = [p for p in takes if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return _Own(*pair, relativistic=getattr(name, "relativistic", len(required) > 1))
    if name not in LOSSES:
        raise ValueError(unknown("loss", name, LOSSES))
    loss = LOSSES[name]
    if issubclass(loss, _Labeled):
        return loss(real_label, fake_label)
    if (real_label, fake_label) != (1.0, 0.0):
        with_labels = ", ".join(other for other, kind in LOSSES.items() if issubclass(kind, _Labeled))
        raise ValueError(
            f"loss {name!r} has no labels to smooth with real_label {real_label} and fake_label {fake_label}; expected "
            f"1 and 0, or one of {with_labels}"
        )
    return loss()


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    """``-mean (label log sigmoid(t) + (1 - label) log sigmoid(-t))``."""
    if label == 1:
        return softplus(-logits).mean()
    if label == 0:
        return softplus(logits).mean()
    return (label * softplus(-logits) + (1 - label) * softplus(logits)).mean()
