"""style_epilogue: not yet a kernel."""

import torch
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.differentiable import guard_second_order
from fastgan_kernels.precision import compute_dtype


def style_epilogue(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    order: str = "paper",
    eps: float = 1e-5,
) -> Tensor:
    """The reference alone, until the kernel lands."""
    if noise is None and strength is not None:
        noise = torch.randn(x.shape[0], 1, *x.shape[2:], dtype=compute_dtype(x.dtype), device=x.device)
    return reference.style_epilogue(
        guard_second_order(x),
        scale,
        shift,
        noise=noise,
        strength=strength,
        bias=bias,
        act=act,
        negative_slope=negative_slope,
        order=order,
        eps=eps,
    )
