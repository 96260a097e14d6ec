"""Adaptive instance normalization (Huang and Belongie 2017, eq. 8; Karras et al. 2019, eq. 1).

Over the L pixels of each plane (n, c), with biased variance,

    y = scale * xh + shift,    xh = (x - mean) * r,    r = 1 / sqrt(var + eps)

and with M the mean over the plane and P(t) = t - M(t) - xh * M(t * xh), the first gradient is

    dx = scale * r * P(dy),    dscale = sum(dy * xh),    dshift = sum(dy).

It is style_epilogue with nothing before or after the normalization; the kernels and the second order are in norm_act.
"""

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_eps, check_feature_map, check_operand
from fastgan_kernels.ops.style_epilogue import epilogue


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
    check_operand("adain", "scale", scale, x.shape[:2], x)
    check_operand("adain", "shift", shift, x.shape[:2], x)
    check_eps("adain", eps)
    if not runs_triton(x):
        return reference.adain(guard_second_order(x), scale, shift, eps=eps)
    return epilogue(x, scale, shift, None, None, None, None, "linear", 1.0, "paper", float(eps))
