"""interpolate: not yet a kernel."""

import torch
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order
from fastgan_kernels.precision import compute_dtype


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor | None = None) -> Tensor:
    """The reference alone, until the kernel lands."""
    if alpha is None:
        alpha = torch.rand(len(real), *(1,) * (real.dim() - 1), dtype=compute_dtype(real.dtype), device=real.device)
    return reference.interpolate(guard_second_order(real), fake, alpha)
