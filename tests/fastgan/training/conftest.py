import io

import pytest
import torch
from rich.console import Console
from torch import nn

from fastgan.models import MODELS
from fastgan.training.config import TrainingConfig


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def tiny():
    """Settings of a run that takes a few milliseconds a step; two reports and three checkpoints in 12 steps."""

    def make(**changes):
        settings = {
            "resolution": 16,
            "base_channels": 4,
            "latent_dim": 8,
            "batch_size": 6,
            "steps": 12,
            "log_every": 5,
            "sample_every": 8,
            "checkpoint_every": 4,
            "device": "cpu",
            "seed": 3,
        }
        return TrainingConfig(**settings | changes)

    return make


@pytest.fixture
def images():
    return torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class _Generator(nn.Sequential):
    def __init__(self, resolution, num_channels, latent_dim):
        layers = nn.Linear(latent_dim, num_channels * resolution**2), nn.Unflatten(1, (num_channels, resolution, -1))
        super().__init__(*layers, nn.Tanh())
        self.latent_dim = latent_dim


@pytest.fixture(autouse=True)
def plain_model(monkeypatch):
    """The model ``plain``, whose discriminator has no batch normalization and draws nothing."""

    def build(*, resolution, num_channels, latent_dim, base_channels):
        layers = nn.Conv2d(num_channels, 3, 4, stride=4), nn.LeakyReLU(0.2), nn.Flatten()
        last = nn.Linear(3 * (resolution // 4) ** 2, 1)
        return _Generator(resolution, num_channels, latent_dim), nn.Sequential(*layers, last, nn.Flatten(0))

    monkeypatch.setitem(MODELS, "plain", build)


class _Growing(nn.Module):
    """What grows: it keeps to what :meth:`grow` was last called with."""

    def __init__(self, resolution):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("fade", torch.ones(()), persistent=False)

    def grow(self, resolution, fade=1.0):
        self.resolution = resolution
        self.fade.fill_(fade)


class _GrowingGenerator(_Growing):
    """Images of the last resolution, averaged to the present one and scaled by the fade."""

    def __init__(self, network, resolution, latent_dim):
        super().__init__(resolution)
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, latents):
        return self.fade * nn.functional.adaptive_avg_pool2d(self.network(latents), self.resolution)


class _GrowingDiscriminator(_Growing):
    def __init__(self, network, resolution):
        super().__init__(resolution)
        self.network = network
        self.full = resolution
        self.seen = []

    def forward(self, images):
        assert images.shape[-1] == self.resolution
        self.seen.append((self.resolution, float(self.fade), len(images)))
        return self.network(nn.functional.interpolate(images, self.full))


@pytest.fixture(autouse=True)
def growing_model(monkeypatch, plain_model):
    """The model ``growing``: the networks of ``plain`` at any resolution that they are grown to."""

    def build(*, resolution, num_channels, latent_dim, base_channels):
        shape = {"resolution": resolution, "num_channels": num_channels, "latent_dim": latent_dim}
        generator, discriminator = MODELS["plain"](**shape, base_channels=base_channels)
        return _GrowingGenerator(generator, resolution, latent_dim), _GrowingDiscriminator(discriminator, resolution)

    monkeypatch.setitem(MODELS, "growing", build)
