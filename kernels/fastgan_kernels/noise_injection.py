"""noise_injection: not yet a kernel."""

import torch
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order
from fastgan_kernels.precision import compute_dtype


def noise_injection(x: Tensor, strength: Tensor, noise: Tensor | None = None) -> Tensor:
    """The reference alone, until the kernel lands."""
    if noise is None:
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], dtype=compute_dtype(x.dtype), device=x.device)
    return reference.noise_injection(guard_second_order(x), strength, noise)
