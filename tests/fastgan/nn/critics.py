"""A critic with every kind of place a normalized layer can be in."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm

from fastgan.nn import spectral_norm, spectral_norm_

LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class Critic(nn.Module):
    """``run_trunk`` calls the trunk on the features: plainly, or as a test likes."""

    run_trunk: Callable[[nn.Module, Tensor], Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2))
        self.trunk = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.ConvTranspose2d(4, 2, 3), nn.LeakyReLU(0.2)
        )
        self.head = nn.Linear(2 * 8 * 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        trunk = self.trunk
        x = self.run_trunk(trunk, x) if hasattr(self, "run_trunk") else trunk(x)
        return self.head(x.flatten(1))


def normalized(how: str, model: nn.Module | None = None) -> nn.Module:
    """A critic in float64 whose layers are normalized by ``how``: torch, single or group; equal for all three."""
    torch.manual_seed(3)
    model = Critic().double() if model is None else model
    torch.manual_seed(4)
    if how == "group":
        return spectral_norm_(model)
    for layer in list(model.modules()):
        if isinstance(layer, LAYERS):
            {"torch": torch_spectral_norm, "single": spectral_norm}[how](layer)
    return model


def images(seed: int, n: int = 2) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vectors(model: nn.Module) -> list[Tensor]:
    return [value.clone() for key, value in model.state_dict().items() if key.endswith(("._u", "._v"))]


def gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_same(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), rtol=1e-10, atol=1e-10)
    assert list(a.state_dict()) == list(b.state_dict())


def wgan_gp_step(critic: nn.Module, optimizer: torch.optim.Optimizer, real: Tensor, fake: Tensor) -> None:
    """Three forwards before one backward, and a double backward."""
    between = ((real + fake) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).square().sum(), between, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    optimizer.zero_grad()
    (critic(fake).mean() - critic(real).mean() + 10 * penalty).backward()
    optimizer.step()
