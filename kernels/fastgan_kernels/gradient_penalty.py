"""gradient_penalty: not yet a kernel."""

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order


def gradient_norms(gradients: Tensor) -> Tensor:
    """The reference alone, until the kernel lands."""
    return reference.gradient_norms(guard_second_order(gradients))


def gradient_penalty(gradients: Tensor, *, target: float = 1.0, one_sided: bool = False) -> Tensor:
    """The reference alone, until the kernel lands."""
    return reference.gradient_penalty(guard_second_order(gradients), target=target, one_sided=one_sided)
