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
    """The model ``plain``, whose discriminator has no batch normalisation and draws nothing."""

    def build(*, resolution, num_channels, latent_dim, base_channels):
        layers = nn.Conv2d(num_channels, 3, 4, stride=4), nn.LeakyReLU(0.2), nn.Flatten()
        last = nn.Linear(3 * (resolution // 4) ** 2, 1)
        return _Generator(resolution, num_channels, latent_dim), nn.Sequential(*layers, last, nn.Flatten(0))

    monkeypatch.setitem(MODELS, "plain", build)
