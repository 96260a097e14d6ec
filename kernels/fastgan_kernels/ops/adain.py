"""Adaptive instance normalization (Huang and Belongie 2017, eq. 8; Karras et al. 2019, eq. 1).

Over the L pixels of each plane (n, c), with biased variance,

    y = scale * xh + shift,    xh = (x - mean) * r,    r = 1 / sqrt(var + eps)

and with M the mean over the plane and P(t) = t - M(t) - xh * M(t * xh), the first gradient is

    dx = scale * r * P(dy),    dscale = sum(dy * xh),    dshift = sum(dy).

It is norm_act with the statistics, a scale and a shift of each plane; the kernels and both derivatives are there.
"""

from typing import Any

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_eps, check_feature_map, check_operand
from fastgan_kernels.ops.norm_act import norm_act_backward
from fastgan_kernels.ops.norm_act.backward import new_gradients
from fastgan_kernels.ops.norm_act.forward import launch_forward


def _launch_forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and mean and variance of each plane [N, C]."""
    return launch_forward(x, scale, shift, None, None, None, x.shape[0], None, eps, "linear", 1.0)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, _, ctx.eps = inputs
    _, mean, var = output
    ctx.save_for_backward(x, mean, var, scale)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    settings = False, ctx.eps, "linear", 1.0
    return norm_act_backward(dy, *ctx.saved_tensors, None, *settings, list(ctx.needs_input_grad[:3]))


_adain = DifferentiableOp(
    "adain(Tensor x, Tensor scale, Tensor shift, float eps) -> (Tensor, Tensor, Tensor)",
    returns_first=True,
    launch=_launch_forward,
    fake=lambda x, scale, *_: new_gradients(x, scale, scale),
    setup_context=_save_for_backward,
    backward=_backward,
)


def adain(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Instance normalization over the spatial axes, then a scale and a shift for each sample and channel.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        scale, shift: [N, C], any floating-point type. Halves of one matrix (``style.chunk(2, dim=1)``) are not copied.
        eps: added to the biased variance; finite, at least 0.

    Returns:
        scale * (x - mean) / sqrt(var + eps) + shift, in the shape, type and layout of ``x``. Differentiable twice in
        all three, both orders fused; a third raises RuntimeError. Saves x, scale and two numbers per plane.

    Raises:
        ValueError: for a shape, device or value other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("adain", x)
    planes = x.shape[:2]
    check_operand("adain", "scale", scale, planes, x)
    check_operand("adain", "shift", shift, planes, x)
    check_eps("adain", eps)
    if not runs_triton(x):
        return reference.adain(guard_second_order(x), scale, shift, eps=eps)
    return _adain(x, scale, shift, float(eps))
