"""Small fully connected networks without normalization, for points of the plane and other toy data.

A point of the plane is an image with one pixel and two channels. The networks are those of the code of Gulrajani et al.
2017 (https://arxiv.org/abs/1704.00028) for eight Gaussians, with three hidden layers and ReLU, but narrower than 512
and with a tanh at the output, because images lie in [-1, 1]. Samples do not influence each other, so every penalty may
be used, except with a ``minibatch`` layer.
"""

import math

from torch import nn

from fastgan.models.dcgan import init_weights_without_batch_norm
from fastgan.models.sequential import Discriminator, Generator
from fastgan.nn import BiasAct, MinibatchDiscrimination, MinibatchStdDev

_HIDDEN_LAYERS = 3

# Sizes of minibatch discrimination. With the 100 kernels of the authors' code the layer would take more than ten times
# as long, in plain torch, as the rest of a step on 256 points.
_NUM_KERNELS, _KERNEL_DIM = 16, 5


def build_mlp(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    minibatch: str = "none",
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for any resolution.

    Args:
        resolution: height and width of the images, in pixels; 1 for points.
        num_channels: channels of the images; 2 for points of the plane.
        base_channels: width of every hidden layer, 128 by default.
        minibatch: a layer over the whole batch before the discriminator's last hidden layer: "none", "stddev" for
            :class:`fastgan.nn.MinibatchStdDev`, or "discrimination" for :class:`fastgan.nn.MinibatchDiscrimination`
            (Salimans et al. 2016).
    """
    width, shape = base_channels or 128, (num_channels, resolution, resolution)
    layers = [
        *_hidden(latent_dim, width, _HIDDEN_LAYERS),
        nn.Linear(width, math.prod(shape)),
        nn.Tanh(),
        nn.Unflatten(1, shape),
    ]
    generator = Generator(layers, latent_dim).apply(init_weights_without_batch_norm)
    hidden = _hidden(math.prod(shape), width, _HIDDEN_LAYERS - 1)
    layer, appended = _minibatch(minibatch, width)
    layers = [nn.Flatten(), *hidden, *layer, *_hidden(width + appended, width, 1), nn.Linear(width, 1)]
    return generator, Discriminator(layers).apply(init_weights_without_batch_norm)


def _hidden(in_features: int, width: int, num_layers: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for c_in in [in_features, *[width] * (num_layers - 1)]:
        layers += [nn.Linear(c_in, width, bias=False), BiasAct(width, act="relu")]
    return layers


def _minibatch(name: str, width: int) -> tuple[list[nn.Module], int]:
    """The layer, if any, and the number of features that it appends."""
    if name == "none":
        return [], 0
    if name == "stddev":
        return [MinibatchStdDev()], 1
    if name == "discrimination":
        return [MinibatchDiscrimination(width, num_kernels=_NUM_KERNELS, kernel_dim=_KERNEL_DIM)], _NUM_KERNELS
    raise ValueError(f"minibatch is {name!r}, expected 'none', 'stddev' or 'discrimination'")
