"""How a network is compared with its twin in plain torch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastgan.regularizers import wgan_gp


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
