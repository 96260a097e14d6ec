"""The layers after each convolution of a StyleGAN block, in one op (Karras et al. 2019, figure 1b).

With p = x + strength * noise + bias, and instance normalization IN by the mean and the biased variance of each plane,

    paper:      y = scale * IN(act(p)) + shift
    tutorial:   y = act(scale * IN(p) + shift)

The kernels are in forward.py and backward.py. adain is this op with nothing before or after it.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_activation, check_eps, check_feature_map, check_operand, check_strength
from fastgan_kernels.layout import empty_dense
from fastgan_kernels.noise import draw_seed, normal_noise
from fastgan_kernels.ops.style_epilogue.backward import launch_backward, new_gradients
from fastgan_kernels.ops.style_epilogue.forward import launch_forward
from fastgan_kernels.ops.style_epilogue.tile import new_statistic
from fastgan_kernels.precision import compute_dtype

ORDERS = ("paper", "tutorial")


def _through(g: Tensor, y: Tensor | None, act: str, slope: float) -> Tensor:
    """``g`` times the activation's derivative; ``y`` is the activation's input or output."""
    if act == "relu":
        return torch.where(y <= 0, 0.0, g)
    return torch.where(y > 0, g, g * slope) if act == "lrelu" else g


class _Normalisation:
    """Instance normalization and its gradients in differentiable torch operations, of z in the type of arithmetic.

    Mean and r are computed from z again: as the forward pass saved them they would be constants, and the third order
    wrong.
    """

    def __init__(self, z: Tensor, eps: float) -> None:
        self._spatial = tuple(range(2, z.dim()))
        self._pixels = math.prod(z.shape[2:])
        deviation = z - self._mean(z)
        self._r = torch.rsqrt(self._mean(deviation.square()) + eps)
        self.xh = deviation * self._r

    def _mean(self, t: Tensor) -> Tensor:
        return t.mean(self._spatial, keepdim=True) if self._spatial else t

    def _project(self, t: Tensor) -> Tensor:
        return t - self._mean(t) - self.xh * self._mean(t * self.xh)

    def gradient(self, g: Tensor, scale: Tensor) -> Tensor:
        """dz, for g the gradient of scale * xh + shift."""
        return scale * self._r * self._project(g)

    def second_order(
        self, g: Tensor, scale: Tensor, v: Tensor | None, a: Tensor | None, b: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of <dz, v> + <dscale, a> + <dshift, b> in g, z and scale."""
        xh, r = self.xh, self._r
        dg, dz, dscale = torch.zeros_like(g), torch.zeros_like(g), torch.zeros_like(scale)
        if v is not None:
            mean_vpg = self._mean(v * self._project(g))
            dg = dg + scale * r * self._project(v)
            dscale = dscale + r * mean_vpg * self._pixels
            dxh = -scale * r * (v * self._mean(g * xh) + g * self._mean(v * xh))
            dz = dz + r * self._project(dxh) - scale * r.square() * mean_vpg * xh
        if a is not None:
            dg = dg + a * xh
            dz = dz + r * self._project(a * g)
        if b is not None:
            dg = dg + b
        return dg, dz, dscale


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.act, ctx.slope, _, ctx.eps, _ = inputs[10:]
    ctx.save_for_backward(*inputs[:8])


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of the sum of all <gradient, cotangent>, in differentiable torch operations.

    Those of x, noise, strength and bias are linear in dp, the gradient of p, so that together they make one cotangent
    of dp: v = vx + vnoise * strength + vstrength * noise + vbias. What remains is the second order of instance
    normalization between two passes through the activation, whose derivative is constant; and that strength and noise
    are factors in v.
    """
    g, x, scale, shift, noise, seed, strength, bias = ctx.saved_tensors

    def wide(t: Tensor | None) -> Tensor | None:
        """``t`` in the type of the arithmetic, reshaped to broadcast over the pixels."""
        if t is None:
            return None
        t = t.to(compute_dtype(x.dtype))
        return t if t.dim() in (0, x.dim()) else t.reshape(*t.shape, *(1,) * (x.dim() - 2))

    def narrow(t: Tensor | None, like: Tensor | None) -> Tensor | None:
        """The gradient of ``like``: sums ``t``, which has a term per element of x, to its shape."""
        return None if t is None or like is None else t.sum_to_size(wide(like).shape).reshape(like.shape)

    def through(t: Tensor | None, y: Tensor | None) -> Tensor | None:
        return None if t is None else _through(t, y, ctx.act, ctx.slope)

    with reference.no_autocast(x):
        vx, a, b, vnoise, vstrength, vbias = map(wide, cotangents)
        noise = noise if seed is None else normal_noise(seed, x.detach())
        n, s, style = wide(noise), wide(strength), wide(scale)
        p = reference.sum_of(wide(x), _product(s, n), wide(bias))
        v = reference.sum_of(vx, _product(vnoise, s), _product(vstrength, n), vbias)
        v = None if v is None else v.expand(x.shape)
        if shift is None:
            norm = _Normalisation(through(p, p), ctx.eps)
            dg, dz, dscale = norm.second_order(wide(g), style, through(v, p), a, b)
            dp, first = through(dz, p), through(norm.gradient(wide(g), style), p)
        else:
            norm = _Normalisation(p, ctx.eps)
            y = norm.xh * style + wide(shift)
            dg, dp, dscale = norm.second_order(through(wide(g), y), style, v, a, b)
            dg, first = through(dg, y), norm.gradient(through(wide(g), y), style)
        return (
            dg,
            dp,
            narrow(dscale, scale),
            None,
            narrow(reference.sum_of(_product(dp, s), _product(first, vstrength)), noise if seed is None else None),
            None,
            narrow(reference.sum_of(_product(dp, n), _product(first, vnoise)), strength),
            narrow(dp, bias),
        )


def _product(*factors: Tensor | None) -> Tensor | None:
    return None if any(f is None for f in factors) else math.prod(factors)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, shift, *tensors, act, slope, order, eps = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.settings = act, slope, order, eps
    activated_last = order == "tutorial" and act != "linear"
    ctx.save_for_backward(x, scale, shift if activated_last else None, *tensors, mean, rstd)


def _backward(ctx: Any, dy: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    x, scale, shift, noise, _, strength, bias = ctx.needs_input_grad[:7]
    needs = [x, scale, shift, noise, strength, bias]
    dx, dscale, dshift, dnoise, dstrength, dbias = _style_epilogue_backward(
        dy, *ctx.saved_tensors, *ctx.settings, needs
    )
    return dx, dscale, dshift, dnoise, None, dstrength, dbias


_style_epilogue_backward = DifferentiableOp(
    "style_epilogue_backward(Tensor g, Tensor x, Tensor scale, Tensor? shift, Tensor? noise, Tensor? seed,"
    " Tensor? strength, Tensor? bias, Tensor mean, Tensor rstd, str act, float slope, str order, float eps,"
    " bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=launch_backward,
    fake=lambda g, x, scale, shift, noise, seed, strength, *_: new_gradients(x, strength),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

epilogue = DifferentiableOp(
    "style_epilogue(Tensor x, Tensor scale, Tensor shift, Tensor? noise, Tensor? seed, Tensor? strength, Tensor? bias,"
    " str act, float slope, str order, float eps) -> (Tensor, Tensor, Tensor)",
    launch=launch_forward,
    fake=lambda x, *_: (empty_dense(x), new_statistic(x), new_statistic(x)),
    setup_context=_save_for_backward,
    backward=_backward,
)
"""Returns the output, mean and r. Without act, noise and bias it is adain."""


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
    """Noise, bias, activation and AdaIN in one op: the layers after each convolution of a StyleGAN block.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        scale, shift: [N, C], any floating-point type. Halves of one matrix (``style.chunk(2, dim=1)``) are not copied.
        noise: [N, 1, *spatial], any floating-point type; added times ``strength``. With a strength, ``None`` draws
            standard normal noise, as :func:`noise_injection` does; without one there is no noise.
        strength: [C] or [], any floating-point type, or ``None``.
        bias: [C], any floating-point type, or ``None``. In the tutorial's order normalization removes it again.
        act: ``"linear"``, ``"relu"`` or ``"lrelu"``.
        negative_slope: slope of ``"lrelu"`` below zero; finite, at least 0.
        order: ``"paper"``, adain(act(x + strength * noise + bias)), or ``"tutorial"``,
            act(adain(x + strength * noise + bias)).
        eps: added to the biased variance; finite, at least 0.

    Returns:
        y in the shape, type and layout of ``x``. Differentiable to any order in ``x``, ``scale``, ``shift``, ``noise``,
        ``strength`` and ``bias``; the first gradient is fused, higher ones are torch operations. Saves its inputs (the
        shift only in the tutorial's order, a seed where noise is drawn) and two numbers per plane.

    Raises:
        ValueError: for a shape, device or value other than those above, and for noise without strength.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("style_epilogue", x)
    check_operand("style_epilogue", "scale", scale, x.shape[:2], x)
    check_operand("style_epilogue", "shift", shift, x.shape[:2], x)
    if noise is not None:
        check_operand("style_epilogue", "noise", noise, (x.shape[0], 1, *x.shape[2:]), x)
        if strength is None:
            raise ValueError("style_epilogue: noise is given without strength, expected both")
    if strength is not None:
        check_strength("style_epilogue", strength, x)
    if bias is not None:
        check_operand("style_epilogue", "bias", bias, (x.shape[1],), x)
    check_activation("style_epilogue", act, negative_slope)
    if order not in ORDERS:
        raise ValueError(f"style_epilogue: order is {order!r}, expected {' or '.join(map(repr, ORDERS))}")
    check_eps("style_epilogue", eps)
    seed = draw_seed(x) if strength is not None and noise is None else None
    if runs_triton(x):
        return epilogue(x, scale, shift, noise, seed, strength, bias, act, float(negative_slope), order, float(eps))[0]
    return reference.style_epilogue(
        guard_second_order(x),
        scale,
        shift,
        noise=noise if seed is None else reference.normal_noise(seed, x),
        strength=strength,
        bias=bias,
        act=act,
        negative_slope=negative_slope,
        order=order,
        eps=eps,
    )
