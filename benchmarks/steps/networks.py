"""Discriminators as people write them in plain torch, and how all providers get the same one.

A problem's shape is (batch, channels of the image, its height and width, width of the network).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan
from benchmarks.steps.step import Setting


class Images(NamedTuple):
    """A batch of real and one of generated images, and the share of the real one in the points between them.

    ``zero`` requires a gradient, and so do points to which it is added: torch.compile cannot trace ``requires_grad_()``
    (torch 2.11).
    """

    real: Tensor
    fake: Tensor
    alpha: Tensor
    zero: Tensor


def dcgan28_critic(channels: int, size: int, width: int) -> nn.Module:
    """Four convolutions 3x3 of stride 2 with leaky ReLU, and a linear layer; no norm, as a penalty asks."""
    return _strided_critic(channels, size, [width, 2 * width, 4 * width, 8 * width], kernel=3)


def dcgan_critic(channels: int, size: int, width: int) -> nn.Module:
    """Convolutions 4x4 of stride 2 with leaky ReLU down to 4x4, and a linear layer; no norm."""
    halvings = (size // 4).bit_length() - 1
    return _strided_critic(channels, size, [width * 2**i for i in range(halvings)], kernel=4)


def _strided_critic(channels: int, size: int, widths: list[int], kernel: int) -> nn.Module:
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise([channels, *widths]):
        layers += [nn.Conv2d(c_in, c_out, kernel, stride=2, padding=1), nn.LeakyReLU(0.2)]
        size = (size + 2 - kernel) // 2 + 1
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * size * size, 1), nn.Flatten(0))


class Blur(nn.Module):
    """The (1, 2, 1) filter before each halving of StyleGAN's discriminator, as a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        window = torch.outer(taps, taps) / 16
        self.register_buffer("weight", window[None, None].repeat(channels, 1, 1, 1))
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, padding=1, groups=self.channels)


class MinibatchStdDev(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        group = min(n, 4)
        y = x.view(group, -1, 1, c, h, w)
        y = torch.sqrt(y.var(0, unbiased=False) + 1e-8).mean([2, 3, 4], keepdim=True).squeeze(2)
        return torch.cat([x, y.repeat(group, 1, h, w)], dim=1)


def stylegan_discriminator(channels: int, size: int, width: int) -> nn.Module:
    """Karras et al. 2019, without equalised learning rate: two convolutions a resolution, blur before each halving.

    ``width`` is that at the full resolution; it doubles with each halving, to at most 512.
    """
    widths = [min(512, width * 2**i) for i in range((size // 4).bit_length())]
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 1), nn.LeakyReLU(0.2)]
    for c_in, c_out in pairwise(widths):
        layers += [nn.Conv2d(c_in, c_in, 3, padding=1), nn.LeakyReLU(0.2), Blur(c_in)]
        layers += [nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
    c = widths[-1]
    layers += [MinibatchStdDev(), nn.Conv2d(c + 1, c, 3, padding=1), nn.LeakyReLU(0.2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16 * c, c), nn.LeakyReLU(0.2), nn.Linear(c, 1), nn.Flatten(0))


def build(network: Callable[[int, int, int], nn.Module], setting: Setting) -> tuple[nn.Module, Images]:
    """The same network and images at every call, in the setting's type and place."""
    batch, channels, size, width = setting.problem.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = network(channels, size, width)
        real, fake = torch.randn(2, batch, channels, size, size).tanh()
        alpha = torch.rand(batch, 1, 1, 1)
    drawn = (t.to(setting.device, setting.dtype) for t in (real, fake, alpha))
    zero = torch.zeros((), device=setting.device, requires_grad=True)
    return critic.to(setting.device, setting.dtype), Images(*drawn, zero)


def build_accelerated(network: Callable[[int, int, int], nn.Module], setting: Setting) -> tuple[nn.Module, Images]:
    """The same after :func:`fastgan.accelerate`, which is what a user does to a network of their own."""
    critic, images = build(network, setting)
    fastgan.accelerate(critic)
    return critic, images
