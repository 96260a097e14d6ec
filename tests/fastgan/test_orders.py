"""WGAN-GP and R1 steps of a whole discriminator of our layers against the same network in plain torch, in float64.

Spectral norm, blur, bias and activation, minibatch standard deviation: all that a penalty differentiates twice. On the
CPU the kernels run in Triton's interpreter.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from fastgan.nn import BiasAct, Blur, MinibatchStdDev, spectral_norm_
from fastgan.regularizers import compile_step, r1, wgan_gp
from fastgan_kernels import use_backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Plain(nn.Module):
    """As one writes it without us: torch's spectral norm, functions of torch, nothing fused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        layers = [
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.Linear(7 * 4 * 4, 1),
        ]
        for layer in layers:
            nn.init.normal_(layer.bias, std=0.1)
        self.layers = nn.ModuleList(parametrizations.spectral_norm(layer) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        first, second, head = self.layers
        x = F.leaky_relu(first(x), 0.2) * 2**0.5
        taps = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype, device=x.device) / 4
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
        x = F.conv2d(x, kernel, padding=1, groups=x.shape[1])
        x = F.leaky_relu(second(x), 0.2) * 2**0.5
        n, _, h, w = x.shape
        # Groups of four: samples i and i + n / 4.
        deviation = (x.view(4, n // 4, -1).var(0, unbiased=False) + 1e-8).sqrt().mean(1)
        x = torch.cat([x, deviation.repeat(4).view(n, 1, 1, 1).expand(n, 1, h, w)], 1)
        return head(x.flatten(1))


class Ours(nn.Module):
    """The same network; a convolution's bias is that of the activation after it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            BiasAct(4, gain=2**0.5),
            Blur((1, 2, 1)),
            nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
            BiasAct(6, gain=2**0.5),
            MinibatchStdDev(),
            nn.Flatten(),
            nn.Linear(7 * 4 * 4, 1),
        )
        spectral_norm_(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    # Indices of the layers with weights, and of those with their biases, in the order of Plain.
    WEIGHTS, BIASES = (0, 3, 7), (1, 4, 7)

    def take(self, plain: Plain) -> None:
        with torch.no_grad():
            for theirs, i, j in zip(plain.layers, self.WEIGHTS, self.BIASES, strict=True):
                mine, given = self.network[i].parametrizations.weight, theirs.parametrizations.weight
                mine.load_state_dict(given.state_dict())
                self.network[j].bias.copy_(theirs.bias)

    def in_the_order_of_plain(self) -> list[nn.Parameter]:
        return [
            parameter
            for i, j in zip(self.WEIGHTS, self.BIASES, strict=True)
            for parameter in (self.network[j].bias, self.network[i].parametrizations.weight.original)
        ]


@pytest.fixture
def networks() -> tuple[Plain, Ours]:
    plain = Plain().double().to(DEVICE)
    ours = Ours().double().to(DEVICE)
    ours.take(plain)
    return plain, ours


def step(critic: nn.Module, parameters: list[nn.Parameter], penalty: str, real: Tensor, fake: Tensor) -> list[Tensor]:
    loss = critic(fake).mean() - critic(real).mean()
    if penalty == "wgan_gp":
        loss = loss + wgan_gp(critic, real, fake, alpha=torch.full_like(real[:, :1, :1, :1], 0.3))
    else:
        loss = loss + r1(critic, real)
    return [loss.detach(), *torch.autograd.grad(loss, parameters)]


def batches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64).to(DEVICE) for _ in range(2))
    return real, fake


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10)


def parameters_of(plain: Plain) -> list[nn.Parameter]:
    return [p for layer in plain.layers for p in (layer.bias, layer.parametrizations.weight.original)]


PLAIN = [("triton", "wgan_gp", "eager"), ("reference", "r1", "eager"), ("triton", "wgan_gp", "compiled")]


@pytest.mark.parametrize(
    ("backend", "penalty", "how"),
    [
        pytest.param(*case, marks=[] if case in PLAIN else pytest.mark.exhaustive)
        for case in itertools.product(["triton", "reference"], ["wgan_gp", "r1"], ["eager", "compiled"])
    ],
)
def test_two_steps(networks: tuple[Plain, Ours], backend: str, penalty: str, how: str):
    plain, ours = networks
    call = compile_step(step, backend="aot_eager") if how == "compiled" else step
    for _ in range(2):  # the second starts from the vectors that the first left
        expected = step(plain, parameters_of(plain), penalty, *batches())
        with use_backend(backend):
            found = call(ours, ours.in_the_order_of_plain(), penalty, *batches())
        assert_equal(found, expected)


def test_the_penalty_reaches_every_weight(networks: tuple[Plain, Ours]):
    """Else the comparison above could be of the adversarial loss alone."""
    plain, _ = networks
    real, _ = batches()
    penalty = r1(plain, real)
    weights = [layer.parametrizations.weight.original for layer in plain.layers]
    assert all(g.abs().max() > 1e-3 for g in torch.autograd.grad(penalty, weights))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()
