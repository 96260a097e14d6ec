"""Every op in plain torch: the oracle of the tests, the baseline of the benchmarks, and what runs without Triton.

The functions here are differentiable to any order, compute in float32 (float64 for float64) whatever the storage type
and return the type of ``x``. Arguments are those of the public functions, already checked by them.
"""

import torch
from torch import Tensor


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _per_channel(v: Tensor, x: Tensor) -> Tensor:
    """Reshapes ``v`` ([C] or [N, C]) so that it broadcasts over the spatial axes of ``x`` [N, C, *spatial]."""
    return v.to(_compute_dtype(x)).reshape(*v.shape, *(1,) * (x.dim() - 2))


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        y = x.to(_compute_dtype(x))
        if bias is not None:
            y = y + _per_channel(bias, x)
        if act == "relu":
            y = torch.relu(y)
        elif act == "lrelu":
            y = torch.nn.functional.leaky_relu(y, negative_slope)
        if gain != 1.0:
            y = y * gain
        if clamp is not None:
            # torch.clamp passes the gradient where |y| == clamp; a saturated output must not.
            y = torch.where(y.abs() >= clamp, torch.sign(y) * clamp, y)
        return y.to(x.dtype)


def adain(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        spatial = tuple(range(2, x.dim()))
        xc = x.to(_compute_dtype(x))
        xc = xc - xc.mean(spatial, keepdim=True)
        rstd = torch.rsqrt(xc.square().mean(spatial, keepdim=True) + eps)
        y = xc * rstd * _per_channel(scale, x) + _per_channel(shift, x)
        return y.to(x.dtype)
