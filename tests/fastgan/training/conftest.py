import io

import pytest
import torch
from rich.console import Console

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
