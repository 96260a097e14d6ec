import pytest
import torch

from fastgan.models import build_networks

GENERATORS = {
    "vanilla": {"resolution": 28, "num_channels": 1},
    "conditional": {"model": "dcgan", "resolution": 16, "num_channels": 3, "base_channels": 4, "num_classes": 3},
    "stylegan": {"resolution": 8, "num_channels": 1, "base_channels": 4},
}


@pytest.fixture
def make_generator():
    """Makes one of ``GENERATORS``, whose running statistics, noise strengths and mean of w are not their first."""

    def make(name):
        torch.manual_seed(0)
        settings = {"model": name, "latent_dim": 6} | GENERATORS[name]
        generator = build_networks(**settings).generator
        labels = [] if generator.num_classes is None else [torch.arange(16) % generator.num_classes]
        for _ in range(3):
            generator(torch.randn(16, 6), *labels)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if name.endswith("strength"):
                    parameter.fill_(0.3)
                elif generator.num_classes is not None and parameter.dim() == 2:
                    parameter.normal_()  # the classes begin all alike
        return generator.eval().requires_grad_(False)

    return make
