"""The vanilla GAN: fully connected networks on flattened images.

Goodfellow et al., "Generative Adversarial Networks", 2014 (https://arxiv.org/abs/1406.2661), but with the leaky ReLU
and batch norm of later practice in place of maxout. A biased linear layer with a leaky ReLU is implemented as a linear
layer without bias and a :class:`fastgan.nn.BiasAct`, with the same parameters.
"""

import math

from torch import nn

from fastgan.models.sequential import Discriminator, Generator
from fastgan.nn import BiasAct


def build_vanilla(
    *, resolution: int, num_channels: int, latent_dim: int = 100, base_channels: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for any resolution.

    For 28x28x1 and a latent of 100 they have 581,264 and 533,505 parameters.

    Args:
        base_channels: width of the narrowest hidden layer, from which the other widths follow; 128 by default.
    """
    base, shape = base_channels or 128, (num_channels, resolution, resolution)
    generator = Generator(
        [
            nn.Linear(latent_dim, base, bias=False),
            BiasAct(base, act="lrelu", negative_slope=0.2),
            nn.Linear(base, 2 * base),
            nn.BatchNorm1d(2 * base),
            nn.LeakyReLU(0.2),
            nn.Linear(2 * base, 4 * base),
            nn.BatchNorm1d(4 * base),
            nn.LeakyReLU(0.2),
            nn.Linear(4 * base, math.prod(shape)),
            nn.Tanh(),
            nn.Unflatten(1, shape),
        ],
        latent_dim,
    )
    discriminator = Discriminator(
        [
            nn.Flatten(),
            nn.Linear(math.prod(shape), 4 * base, bias=False),
            BiasAct(4 * base, act="lrelu", negative_slope=0.2),
            nn.Linear(4 * base, 2 * base, bias=False),
            BiasAct(2 * base, act="lrelu", negative_slope=0.2),
            nn.Linear(2 * base, 1),
        ]
    )
    return generator, discriminator
