"""EMA: the exponential moving average of the generator's weights, which samples are drawn with."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average of a network's weights, with ramp-up.

    ``average <- d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 + t))`` after step t, so that the
    average soon forgets the first, untrained weights (the ramp-up of TensorFlow's ExponentialMovingAverage). With
    ``ramp_up``, ``d = min(decay, 0.5 ** (1 / (ramp_up * t)))``: the half-life is at most ``ramp_up`` times the steps so
    far (``ema_rampup`` of StyleGAN2-ADA, ``ema_rampup_ratio`` of EDM, 0.05 in both). The running statistics of batch
    norm are averaged like weights; integers are copied.

    torch's AveragedModel keeps its counter in a tensor and waits for the device at every update; here the decay is set
    from the number of updates, without waiting.

    Args:
        network: the network to average. Its parameters and buffers must stay the same tensors.
        decay: the decay d in [0, 1); 0 for no averaging.
        ramp_up: see above; None for the first rule.

    Attributes:
        module: the average, at first a copy of ``network``, in evaluation mode and without gradients.
        num_updates: t; a script that saves and loads ``module`` must save and restore this too.
    """

    def __init__(self, network: nn.Module, decay: float = 0.999, ramp_up: float | None = None) -> None:
        self.decay = decay
        self.ramp_up = ramp_up
        self.num_updates = 0
        self.module = copied(network).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        self._averages = [a for a, _ in pairs if a.is_floating_point()]
        self._sources = [s for _, s in pairs if s.is_floating_point()]
        self._copies = [(a, s) for a, s in pairs if not a.is_floating_point()]
        # The share of the new weights, a tensor, so that a captured graph follows it; one per dtype, as lerp requires.
        self._share = {a.dtype: torch.zeros((), device=a.device, dtype=a.dtype) for a in self._averages}
        self._shares = [self._share[a.dtype] for a in self._averages]

    def update(self) -> None:
        """Updates the average with the current weights; call it after each step of the optimizer."""
        self.set_step(self.num_updates + 1)
        self.average()

    def set_step(self, step: int, *, half_life: float | None = None) -> None:
        """Sets the decay of the next :meth:`average`, the ``step``-th from 1; from ``half_life`` in steps if given."""
        self.num_updates = step
        if half_life is not None:
            decay = 0.5 ** (1 / half_life) if half_life else 0.0
        else:
            decay = min(self.decay, 0.5 ** (1 / (self.ramp_up * step)) if self.ramp_up else (1 + step) / (10 + step))
        for share in self._share.values():
            share.fill_(1 - decay)

    @torch.no_grad()
    def average(self) -> None:
        """Updates the average with the current weights, by the decay that was last set."""
        if self._averages[0].is_cuda:
            # Three launches for all weights; lerp with a tensor would take one for each.
            differences = torch._foreach_sub(self._sources, self._averages)
            torch._foreach_mul_(differences, self._shares[0])
            torch._foreach_add_(self._averages, differences)
        else:
            torch._foreach_lerp_(self._averages, self._sources, self._shares)
        for average, source in self._copies:
            average.copy_(source)


def copied(network: nn.Module) -> nn.Module:
    """A deep copy, even of a network that stores autograd results, such as the weight of torch's old spectral_norm."""
    memo = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(network, memo)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
