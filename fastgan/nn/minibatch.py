"""Layers that show a discriminator its whole batch: minibatch standard deviation and minibatch discrimination."""

import math

import torch
from torch import Tensor, nn

from fastgan_kernels import minibatch_discrimination, minibatch_stddev


class MinibatchStdDev(nn.Module):
    """Appends the standard deviation within its group to each sample, so that a discriminator detects mode collapse.

    Karras et al. 2018, section 3. The layer has no parameters. It comes before the last convolution of a discriminator,
    which then takes ``num_channels`` more channels.

    Args:
        group_size: maximum samples per group. The actual size is the largest divisor of the forward's batch (a
            micro-batch or a rank's shard) up to it. If that is 1, as for a larger prime batch size, the appended
            channel is the constant 1e-4, without information: use multiples of ``group_size``.
        num_channels: number of appended channels; must divide C.

    Shape:
        [N, C, \\*spatial] to [N, C + num_channels, \\*spatial], in the layout of the input.
    """

    def __init__(self, group_size: int = 4, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x: Tensor) -> Tensor:
        return minibatch_stddev(x, group_size=self.group_size, num_channels=self.num_channels)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, num_channels={self.num_channels}"


class MinibatchDiscrimination(nn.Module):
    """Appends its closeness to the other samples to each sample's features (Salimans et al. 2016, section 3.2).

    The features are projected by a learned tensor T to ``num_kernels`` vectors of ``kernel_dim`` components. For each
    of these kernels exp(-L1 distance) is summed over the samples of the batch, including the sample itself.

    The layer couples the samples of a batch, so gradient penalties (WGAN-GP, R1, R2, DRAGAN) no longer penalize each
    sample's own gradient: they use the gradient of the sum of the outputs, to which every distance contributes.

    ``weight`` is initialized normal with standard deviation sqrt(pi / in_features) / (2 * kernel_dim): the expected
    distance of two samples with independent features of unit variance is then 1, where exp(-distance) neither vanishes
    nor saturates. The paper does not specify it.

    Args:
        in_features: A, number of features.
        num_kernels: B, number of kernels.
        kernel_dim: C, components per kernel.

    Shape:
        [N, in_features] to [N, in_features + num_kernels].

    Raises:
        ValueError: for an input of another shape.
    """

    def __init__(self, in_features: int, num_kernels: int, kernel_dim: int) -> None:
        super().__init__()
        self.num_kernels = num_kernels
        self.kernel_dim = kernel_dim
        self.weight = nn.Parameter(torch.empty(in_features, num_kernels * kernel_dim))
        nn.init.normal_(self.weight, std=math.sqrt(math.pi / in_features) / (2 * kernel_dim))

    def forward(self, x: Tensor) -> Tensor:
        features = self.weight.shape[0]
        if x.dim() != 2 or x.shape[1] != features:
            raise ValueError(f"MinibatchDiscrimination: x has shape {list(x.shape)}, expected [N, {features}]")
        m = (x @ self.weight).unflatten(1, (self.num_kernels, self.kernel_dim))
        return torch.cat([x, minibatch_discrimination(m)], dim=1)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, num_kernels={self.num_kernels}, kernel_dim={self.kernel_dim}"
