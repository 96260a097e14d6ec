"""spectral_norm: not yet a kernel."""

from collections.abc import Sequence

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order


def power_iteration(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    *,
    n_iterations: int = 1,
    eps: float = 1e-12,
) -> Tensor:
    """The reference alone, until the kernel lands."""
    return reference.power_iteration(weights, us, vs, n_iterations=n_iterations, eps=eps)


def spectral_normalize(weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor]) -> list[Tensor]:
    """The reference alone, until the kernel lands."""
    weights = [guard_second_order(weight) for weight in weights]
    return reference.spectral_normalize(weights, us, vs)
