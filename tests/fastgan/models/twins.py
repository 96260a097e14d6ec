"""The networks of every model but StyleGAN in plain torch, and how a network is compared with its twin."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.regularizers import wgan_gp
from fastgan_kernels.reference import minibatch_discrimination, minibatch_stddev

CLASSES = 5
LABELS = torch.tensor([3, 0, 4, 1, 2, 2])
Norm = Callable[[int], nn.Module]


def generator_twin(resolution: int, base: int, norm: Norm = nn.BatchNorm2d, channels: int = 1) -> nn.Sequential:
    """28x28 as SPEC.md section 2 has it; others as in the paper of DCGAN (base 128: 1024, 512, 256, 128 channels)."""
    if resolution == 28:
        layers = [nn.Linear(100, 2 * base * 49), nn.Unflatten(1, (2 * base, 7, 7)), norm(2 * base)]
        for c_out in (2 * base, base):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(2 * base, c_out, 3, padding=1), norm(c_out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(base, channels, 3, padding=1), nn.Tanh())
    c_in = base * resolution // 8
    layers = [nn.Linear(100, c_in * 16, bias=False), nn.Unflatten(1, (c_in, 4, 4)), norm(c_in), nn.ReLU()]
    while c_in > base:
        c_out = c_in // 2
        layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), norm(c_out), nn.ReLU()]
        c_in = c_out
    return nn.Sequential(*layers, nn.ConvTranspose2d(base, channels, 4, 2, 1), nn.Tanh())


def trunk(resolution: int, base: int, norm: Norm | None = nn.BatchNorm2d, channels: int = 1) -> list[nn.Module]:
    """The discriminator of the same papers up to its last map."""
    if resolution == 28:
        layers, c_in = [], channels
        for i, c_out in enumerate([base // 4, base // 2, base, 2 * base]):
            layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
            layers += [norm(c_out)] if norm and i > 0 else []
            c_in = c_out
        return layers
    layers, c_in = [nn.Conv2d(channels, base, 4, 2, 1), nn.LeakyReLU(0.2)], base
    while c_in < base * resolution // 8:
        c_out = 2 * c_in
        layers += [nn.Conv2d(c_in, c_out, 4, 2, 1, bias=norm is None), *([norm(c_out)] if norm else [])]
        layers.append(nn.LeakyReLU(0.2))
        c_in = c_out
    return layers


def sngan_trunk(base: int) -> list[nn.Module]:
    layers, c_in = [], 1
    for c_out in [base, 2 * base, 4 * base, 8 * base]:
        layers += [spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(0.1)]
        c_in = c_out
    return layers


class StdDev(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return minibatch_stddev(x)


class Discrimination(nn.Module):
    """Kernels of 5 components, as in the code of Salimans et al. 2016, which has 100 of them."""

    def __init__(self, in_features: int, num_kernels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, 5 * num_kernels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, minibatch_discrimination((x @ self.weight).unflatten(1, (-1, 5)))], dim=1)


class LayerNorm(nn.Module):
    """Over channels and pixels, with a scale and shift per channel."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        mean, variance = flat.mean(1), flat.var(1, correction=0)
        normal = (x - mean[:, None, None, None]) / (variance[:, None, None, None] + 1e-5).sqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


class ByClass(nn.Module):
    """Batch norm, with the rows of a scale and a shift that one-hot labels pick."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.scale = nn.Parameter(torch.empty(CLASSES, num_features))
        self.shift = nn.Parameter(torch.empty(CLASSES, num_features))

    def forward(self, x: Tensor) -> Tensor:
        labels = one_hot(LABELS, CLASSES).to(x.dtype)
        return self.norm(x) * (labels @ self.scale)[:, :, None, None] + (labels @ self.shift)[:, :, None, None]


class Projection(nn.Module):
    """Equation 4 of Miyato and Koyama 2018 with one-hot labels: y^T V f + psi(f)."""

    def __init__(self, num_features: int, parametrize: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__()
        self.psi = parametrize(nn.Linear(num_features, 1))
        self.v = parametrize(nn.Embedding(CLASSES, num_features))

    def forward(self, f: Tensor) -> Tensor:
        projected = torch.einsum("ny,yf,nf->n", one_hot(LABELS, CLASSES).to(f.dtype), self.v.weight, f)
        return projected + self.psi(f).squeeze(1)


def discriminator_twin(
    model: str, resolution: int, base: int, num_classes: int | None, norm: str = "", minibatch: str = "none"
) -> nn.Sequential:
    """The discriminator of dcgan, wgan-gp or sngan."""
    parametrize = spectral_norm if model == "sngan" else lambda layer: layer
    norm_layer = nn.BatchNorm2d if model == "dcgan" else LayerNorm if norm == "layer" else None
    layers = sngan_trunk(base) if model == "sngan" else trunk(resolution, base, norm_layer)
    features = 8 * base if resolution == 28 else 2 * base * resolution
    if minibatch == "stddev":
        layers.append(StdDev())
    layers.append(nn.Flatten())
    if minibatch == "discrimination":
        layers.append(Discrimination(features, 100))
    features += {"none": 0, "stddev": 4 if resolution == 28 else 16, "discrimination": 100}[minibatch]
    if num_classes:
        return nn.Sequential(*layers, Projection(features, parametrize))
    return nn.Sequential(*layers, parametrize(nn.Linear(features, 1)), nn.Flatten(0))


def mlp_twins(base: int, minibatch: str = "none") -> tuple[nn.Sequential, nn.Sequential]:
    """Of points of the plane and latents of 16."""

    def hidden(in_features: int, num_layers: int) -> list[nn.Module]:
        widths = [in_features, *[base] * num_layers]
        return [m for c_in, c_out in pairwise(widths) for m in (nn.Linear(c_in, c_out), nn.ReLU())]

    extra, appended = {
        "none": ([], 0),
        "stddev": ([StdDev()], 1),
        "discrimination": ([Discrimination(base, 16)], 16),
    }[minibatch]
    generator = nn.Sequential(*hidden(16, 3), nn.Linear(base, 2), nn.Tanh(), nn.Unflatten(1, (2, 1, 1)))
    last = [*hidden(base + appended, 1), nn.Linear(base, 1), nn.Flatten(0)]
    return generator, nn.Sequential(nn.Flatten(), *hidden(2, 2), *extra, *last)


def vanilla_twins(base: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Written out from SPEC.md section 2."""
    generator = nn.Sequential(
        nn.Linear(100, base),
        nn.LeakyReLU(0.2),
        nn.Linear(base, 2 * base),
        nn.BatchNorm1d(2 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * base, 4 * base),
        nn.BatchNorm1d(4 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(4 * base, 784),
        nn.Tanh(),
        nn.Unflatten(1, (1, 28, 28)),
    )
    discriminator = nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 4 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(4 * base, 2 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * base, 1),
        nn.Flatten(0),
    )
    return generator, discriminator


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def by_kind(network: nn.Module) -> list[nn.Parameter]:
    """Weights of several axes first, then all others, each in the order of the forward pass.

    A BiasAct's bias stands after its weight, as the twin's does, but a parametrized weight stands after its bias.
    """
    return sorted(network.parameters(), key=lambda p: p.dim() == 1)


def copy_weights(network: nn.Module, twin: nn.Module) -> None:
    ours, theirs = (([*by_kind(n), *n.buffers()]) for n in (network, twin))
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    with torch.no_grad():
        for source, target in zip(ours, theirs, strict=True):
            target.copy_(source)


def shake(network: nn.Module) -> None:
    """Biases start at zero and scales at one, where one that is missing would not show."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def error_bound(network: nn.Module, reference: Tensor) -> float:
    """Rounding of float64 through the network: every layer sums at most ``fan_in`` products, and the errors add up."""
    weights = [p for p in network.parameters() if p.dim() > 1]
    fan_in = max(p.numel() // min(p.shape[:2]) for p in weights)
    return len(list(network.modules())) * fan_in * torch.finfo(torch.float64).eps * max(reference.abs().max().item(), 1)


def output_and_gradients(network: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(2)  # the same dropout
    leaf = x.double().requires_grad_()
    y = network(leaf)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [leaf, *by_kind(network)])]


def penalized_step(critic: nn.Module, real: Tensor, fake: Tensor) -> list[Tensor]:
    """A critic's loss with the gradient penalty of WGAN-GP, and its gradients, of second order in the penalty."""
    torch.manual_seed(2)
    share = torch.full_like(real[:, :1, :1, :1], 0.3)
    penalty = wgan_gp(critic, real, fake, alpha=share)
    loss = critic(fake).mean() - critic(real).mean() + penalty
    return [loss.detach(), penalty.detach(), *torch.autograd.grad(loss, by_kind(critic))]


def assert_twins(network: nn.Module, twin: nn.Module, results: Callable[[nn.Module], list[Tensor]]) -> None:
    for ours, theirs in zip(results(network), results(twin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=error_bound(network, theirs))
