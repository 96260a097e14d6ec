"""The moving average of the generator, which is what samples are drawn from."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedNetwork:
    """An exponential moving average of a network's weights, with ramp-up.

    ``average <- d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 + t))`` after step t, so that the
    first, untrained weights are soon forgotten (the ramp-up of TensorFlow's ExponentialMovingAverage). The running
    statistics of batch norm are averaged with the weights that they belong to; whole numbers are copied.

    torch's AveragedModel keeps its counter in a tensor and waits for the device to read it at every update; here the
    step is the loop's own Python integer.

    Args:
        network: what to average. ``module`` starts as its copy, in evaluation mode and without gradients.
        decay: from 0, no averaging, to less than 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(network).eval().requires_grad_(False)
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        self._averages = [a for a, _ in pairs if a.is_floating_point()]
        self._sources = [s for _, s in pairs if s.is_floating_point()]
        self._copies = [(a, s) for a, s in pairs if not a.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after ``step`` steps (1 or more)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._sources, step)
        for average, source in self._copies:
            average.copy_(source)


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
