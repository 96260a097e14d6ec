"""The networks of DCGAN, SNGAN and WGAN-GP in plain torch, and how a network is compared with its twin."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgan.regularizers import wgan_gp

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
    """The discriminator of the same papers up to its last map, which has ``trunk_features`` values."""
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


def trunk_features(resolution: int, base: int) -> int:
    return 8 * base if resolution == 28 else 2 * base * resolution


def sngan_trunk(base: int) -> list[nn.Module]:
    layers, c_in = [], 1
    for c_out in [base, 2 * base, 4 * base, 8 * base]:
        layers += [spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(0.1)]
        c_in = c_out
    return layers


def with_head(layers: list[nn.Module], features: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 1), nn.Flatten(0))


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def by_kind(network: nn.Module) -> list[nn.Parameter]:
    """Weights of several axes first, then all others, each in the order of the forward pass.

    A BiasAct's bias stands after its weight, as the twin's does, but a parametrised weight stands after its bias.
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


def penalised_step(critic: nn.Module, real: Tensor, fake: Tensor) -> list[Tensor]:
    """A critic's loss with the gradient penalty of WGAN-GP, and its gradients, of second order in the penalty."""
    torch.manual_seed(2)
    share = torch.full_like(real[:, :1, :1, :1], 0.3)
    penalty = wgan_gp(critic, real, fake, alpha=share)
    loss = critic(fake).mean() - critic(real).mean() + penalty
    return [loss.detach(), penalty.detach(), *torch.autograd.grad(loss, by_kind(critic))]


def assert_twins(network: nn.Module, twin: nn.Module, results: Callable[[nn.Module], list[Tensor]]) -> None:
    for ours, theirs in zip(results(network), results(twin), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=error_bound(network, theirs))
