"""Adversarial losses on raw logits, looked up by name."""

import difflib
from typing import Protocol

from torch import Tensor
from torch.nn.functional import softplus


class Loss(Protocol):
    """What an adversarial loss offers: one scalar for each side, from logits [N]."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor: ...

    def generator(self, fake_logits: Tensor) -> Tensor: ...


class NonSaturating:
    """The non-saturating logistic loss (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, section 3).

    ``-log sigmoid(t)`` is written as ``softplus(-t)``: where the sigmoid rounds to zero its logarithm is infinite and
    the gradient not a number, while softplus is right for every finite logit.
    """

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """``mean softplus(-real) + mean softplus(fake)``; 2 log 2 where the discriminator cannot tell."""
        return softplus(-real_logits).mean() + softplus(fake_logits).mean()

    def generator(self, fake_logits: Tensor) -> Tensor:
        """``mean softplus(-fake)``; log 2 where the discriminator cannot tell."""
        return softplus(-fake_logits).mean()


LOSSES: dict[str, Loss] = {"non-saturating": NonSaturating()}


def get_loss(name: str) -> Loss:
    """Looks a loss up by its name in ``LOSSES``.

    Raises:
        ValueError: for an unknown name; one sentence.
    """
    if name not in LOSSES:
        nearest = difflib.get_close_matches(name, LOSSES, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"no loss is called {name!r} (there is {', '.join(LOSSES)}){hint}")
    return LOSSES[name]
