"""The layers after each convolution of a StyleGAN block, in one op (Karras et al. 2019, figure 1b).

With p = x + strength * noise + bias, and instance normalization IN by the mean and the biased variance of each plane,

    paper:      y = scale * IN(act(p)) + shift
    tutorial:   y = act(scale * IN(p) + shift)

The kernels are those of norm_act, with noise, bias and activation before the normalization.

The gradients of noise, strength and bias are linear in dp, the gradient of p. So the cotangents of all of them make one
of dp, v = vx + vnoise * strength + vstrength * noise + vbias, and their second order is that of the normalization; and
that strength and noise are factors in v.
"""

from typing import Any

from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_activation, check_eps, check_feature_map, check_operand, check_strength
from fastgan_kernels.layout import contiguous, empty_dense
from fastgan_kernels.noise import draw_seed, normal_noise
from fastgan_kernels.ops.noise_injection import noise_gradients
from fastgan_kernels.ops.norm_act.backward import launch_backward, new_gradients
from fastgan_kernels.ops.norm_act.double_backward import launch_double_backward
from fastgan_kernels.ops.norm_act.forward import launch_forward
from fastgan_kernels.ops.norm_act.tile import Before
from fastgan_kernels.precision import compute_dtype

ORDERS = ("paper", "tutorial")


def _before(
    x: Tensor, noise: Tensor | None, seed: Tensor | None, strength: Tensor | None, bias: Tensor | None, act: str,
    order: str,
) -> tuple[Before, str]:  # fmt: skip
    """What precedes the normalization, with the noise as given or drawn; and the activation after it."""
    noise = noise if seed is None else normal_noise(seed, x)
    first, last = (act, "linear") if order == "paper" else ("linear", act)
    return Before(contiguous(noise), contiguous(strength), contiguous(bias), first), last


def _launch_forward(
    x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor | None, seed: Tensor | None, strength: Tensor | None,
    bias: Tensor | None, act: str, slope: float, order: str, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, and mean and variance of each plane [N, C]."""
    before, act = _before(x, noise, seed, strength, bias, act, order)
    return launch_forward(x, scale, shift, None, None, None, x.shape[0], None, eps, act, slope, before)


def _launch_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, shift: Tensor | None, noise: Tensor | None,
    seed: Tensor | None, strength: Tensor | None, bias: Tensor | None, act: str, slope: float, order: str, eps: float,
    needs: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of x, scale, shift, noise, strength and bias, where they are needed."""
    needs_x, needs_scale, needs_shift, needs_noise, *needs_before = needs
    before, act = _before(x, noise, seed, strength, bias, act, order)
    # The noise's gradient sums dx over channels, before dx is rounded to the type of x.
    dx, dscale, dshift, dstrength, dbias = launch_backward(
        dy, x, mean, var, scale, shift, False, eps, act, slope,
        [needs_x or needs_noise, needs_scale, needs_shift, *needs_before], before, wide=needs_noise,
    )  # fmt: skip
    dnoise = None
    if needs_noise:
        _, dnoise = noise_gradients(dx, strength, None, None, strength.dim() == 1, [False, True])
        dx = dx.to(x.dtype) if needs_x else None
    return dx, dscale, dshift, dnoise, dstrength, dbias


def _launch_double_backward(
    vx: Tensor | None, a: Tensor | None, b: Tensor | None, vnoise: Tensor | None, vstrength: Tensor | None,
    vbias: Tensor | None, dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, shift: Tensor | None,
    noise: Tensor | None, seed: Tensor | None, strength: Tensor | None, bias: Tensor | None, act: str, slope: float,
    order: str, eps: float, needs: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of dy, x, scale, noise, strength and bias, where they are needed."""
    needs_dy, needs_x, needs_scale, *needs_before = needs
    before, last = _before(x, noise, seed, strength, bias, act, order)
    normalization = x, mean, var, scale, shift, False, eps, last, slope
    noise = before.noise
    terms = [
        vx,
        None if vnoise is None else vnoise * _across(strength, x),
        None if vstrength is None else noise * _across(vstrength, x),
        None if vbias is None else _across(vbias, x),
    ]
    v = reference.sum_of(*terms)
    v = None if v is None else v.expand(x.shape)
    # p has the gradient of x, and noise, strength and bias have sums of it.
    ddy, dp, dscale = launch_double_backward(
        v, a, b, dy, *normalization, [needs_dy, needs_x or any(needs_before), needs_scale], before,
        wide=any(needs_before),
    )  # fmt: skip
    dnoise = dstrength = dbias = None
    needs_noise, needs_strength, needs_bias = needs_before
    if needs_noise or needs_strength:
        per_channel = strength.dim() == 1
        dstrength, dnoise = noise_gradients(dp, strength, noise, None, per_channel, [needs_strength, needs_noise])
        of_noise, of_strength = needs_noise and vstrength is not None, needs_strength and vnoise is not None
        if of_noise or of_strength:
            (first, *_) = launch_backward(dy, *normalization, [True, False, False], before, wide=True)
            more = noise_gradients(first, vstrength, vnoise, None, per_channel, [of_strength, of_noise])
            dstrength, dnoise = (reference.sum_of(t, more_) for t, more_ in zip((dstrength, dnoise), more, strict=True))
    if needs_bias:
        dbias = dp.sum((0, *range(2, dp.dim())))
    return ddy, dp.to(x.dtype) if needs_x else None, dscale, dnoise, dstrength, dbias


def _across(of_channels: Tensor, x: Tensor) -> Tensor:
    """[C] or [] in the type of the arithmetic, so that it broadcasts to ``x``."""
    return of_channels.to(compute_dtype(x.dtype)).reshape(*of_channels.shape, *(1,) * (x.dim() - 2))


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, act, slope, order, eps, _needs = inputs
    ctx.settings = act, slope, order, eps
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 4, 6, 8, 9)]
    ddy, dx, dscale, dnoise, dstrength, dbias = _style_epilogue_double_backward(
        *cotangents, *ctx.saved_tensors, *ctx.settings, needs
    )
    return ddy, dx, None, None, dscale, None, dnoise, None, dstrength, dbias


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, shift, *tensors, act, slope, order, eps = inputs
    _, mean, var = output
    ctx.settings = act, slope, order, eps
    activated_last = order == "tutorial" and act != "linear"
    ctx.save_for_backward(x, mean, var, scale, shift if activated_last else None, *tensors)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 3, 5, 6)]
    dx, dscale, dshift, dnoise, dstrength, dbias = _style_epilogue_backward(
        dy, *ctx.saved_tensors, *ctx.settings, needs
    )
    return dx, dscale, dshift, dnoise, None, dstrength, dbias


_OPERANDS = "Tensor? noise, Tensor? seed, Tensor? strength, Tensor? bias, str act, float slope, str order, float eps"

_style_epilogue_double_backward = DifferentiableOp(
    "style_epilogue_double_backward(Tensor? vx, Tensor? a, Tensor? b, Tensor? vnoise, Tensor? vstrength, Tensor? vbias,"
    f" Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor scale, Tensor? shift, {_OPERANDS}, bool[] needs)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=_launch_double_backward,
    fake=lambda vx, a, b, vnoise, vstrength, vbias, dy, x, mean, var, scale, shift, noise, seed, strength, bias, *_: (
        empty_dense(x),
        *new_gradients(x, scale, noise, strength, bias),
    ),
    backward=refuse_third_order("style_epilogue"),
    is_gradient=True,
)

_style_epilogue_backward = DifferentiableOp(
    "style_epilogue_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor scale, Tensor? shift,"
    f" {_OPERANDS}, bool[] needs) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda dy, x, mean, var, scale, shift, noise, seed, strength, bias, *_: new_gradients(
        x, scale, scale, noise, strength, bias
    ),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_style_epilogue = DifferentiableOp(
    f"style_epilogue(Tensor x, Tensor scale, Tensor shift, {_OPERANDS}) -> (Tensor, Tensor, Tensor)",
    returns_first=True,
    launch=_launch_forward,
    fake=lambda x, scale, *_: new_gradients(x, scale, scale),
    setup_context=_save_for_backward,
    backward=_backward,
)


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
        y in the shape, type and layout of ``x``. Differentiable twice in ``x``, ``scale``, ``shift``, ``noise``,
        ``strength`` and ``bias``, both orders fused; a third raises RuntimeError. Saves its inputs (the shift only in
        the tutorial's order, a seed where noise is drawn) and two numbers per plane.

    Raises:
        ValueError: for a shape, device or value other than those above, and for noise without strength.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("style_epilogue", x)
    planes = x.shape[:2]
    check_operand("style_epilogue", "scale", scale, planes, x)
    check_operand("style_epilogue", "shift", shift, planes, x)
    if noise is not None:
        check_operand("style_epilogue", "noise", noise, (planes[0], 1, *x.shape[2:]), x)
        if strength is None:
            raise ValueError("style_epilogue: noise is given without strength, expected both")
    if strength is not None:
        check_strength("style_epilogue", strength, x)
    if bias is not None:
        check_operand("style_epilogue", "bias", bias, planes[1:], x)
    check_activation("style_epilogue", act, negative_slope)
    if order not in ORDERS:
        raise ValueError(f"style_epilogue: order is {order!r}, expected {' or '.join(map(repr, ORDERS))}")
    check_eps("style_epilogue", eps)
    seed = draw_seed(x) if strength is not None and noise is None else None
    if runs_triton(x):
        return _style_epilogue(
            x, scale, shift, noise, seed, strength, bias, act, float(negative_slope), order, float(eps)
        )
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
