"""Every op in plain torch: the oracle of the tests, the baseline of the benchmarks, and what runs without Triton.

The functions here are differentiable to any order, compute in float32 (float64 for float64) whatever the storage type
and return the type of ``x``. Arguments are those of the public functions, already checked by them.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastgan_kernels.precision import compute_dtype


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    """Reshapes ``v`` ([C] or [N, C]) so that it broadcasts over the spatial axes of ``x`` [N, C, *spatial]."""
    return v.to(compute_dtype(x.dtype)).reshape(*v.shape, *(1,) * (x.dim() - 2))


def no_autocast(x: Tensor) -> AbstractContextManager[None]:
    """Keeps the surrounding autocast from changing the types of what follows."""
    # There is no autocast for meta tensors, and torch.amp.is_autocast_available cannot be compiled in torch 2.11.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    with no_autocast(x):
        y = x.to(compute_dtype(x.dtype))
        if bias is not None:
            y = y + _per_channel(bias, x)
        if act == "relu":
            y = torch.relu(y)
        elif act == "lrelu":
            y = torch.nn.functional.leaky_relu(y, negative_slope)
        if gain != 1.0:
            y = y * gain
        y = y.to(x.dtype)
        if clamp is not None:
            # torch.clamp passes the gradient where |y| == clamp; a saturated output must not.
            limit = torch.full((), clamp, dtype=x.dtype, device=x.device)
            y = torch.where(y.abs() >= limit, torch.sign(y).detach() * limit, y)
        return y


def adain(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    if x.dim() == 2:
        return adain(x.unsqueeze(2), scale, shift, eps=eps).squeeze(2)
    with no_autocast(x):
        spatial = tuple(range(2, x.dim()))
        wide = x.to(compute_dtype(x.dtype))
        deviation = wide - wide.mean(spatial, keepdim=True)
        rstd = torch.rsqrt(deviation.square().mean(spatial, keepdim=True) + eps)
        y = deviation * rstd * _per_channel(scale, x) + _per_channel(shift, x)
        return y.to(x.dtype)
