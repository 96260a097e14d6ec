"""Normalization by the statistics of a batch or of each sample, a scale, a shift and an activation, in one op.

    y = act(weight * xh + bias),    xh = (x - mean) * r,    r = 1 / sqrt(var + eps)

Mean and biased variance are per channel, over the samples and pixels (Ioffe and Szegedy 2015), or per sample and
channel, over the pixels (Ulyanov et al. 2016); or they are given, as for batch norm in evaluation. Scale and shift are
per channel, or per sample and channel, such as those that class labels choose (Dumoulin et al. 2017).

The kernels are in forward.py, backward.py and double_backward.py, the tile that they share in tile.py; there weight and
bias are called scale and shift. adain has these kernels and derivatives too; style_epilogue has these kernels, with
more before the normalization.
Saved for backward: x, weight, bias, mean and var; the activation is computed again.
"""

from typing import Any

import torch
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_activation, check_eps, check_feature_map, check_operand, check_tensor
from fastgan_kernels.layout import empty_dense
from fastgan_kernels.ops.norm_act.backward import launch_backward, new_gradients
from fastgan_kernels.ops.norm_act.double_backward import launch_double_backward
from fastgan_kernels.ops.norm_act.forward import launch_fixed, launch_forward
from fastgan_kernels.precision import compute_dtype

NORMS = ("batch", "instance")


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, given, eps, act, slope, _needs = inputs
    ctx.settings = given, eps, act, slope
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 4)]
    ddy, ddx, ddweight = _norm_act_double_backward(*cotangents, *ctx.saved_tensors, *ctx.settings, needs)
    return ddy, ddx, None, None, ddweight


_norm_act_double_backward = DifferentiableOp(
    "norm_act_double_backward(Tensor? v, Tensor? a, Tensor? b, Tensor dy, Tensor x, Tensor mean, Tensor var,"
    " Tensor? weight, Tensor? bias, bool given, float eps, str act, float slope, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)",
    launch=launch_double_backward,
    fake=lambda v, a, b, dy, x, mean, var, weight, *_: (empty_dense(x), *new_gradients(x, weight)),
    backward=refuse_third_order("norm_act (adain)"),
    is_gradient=True,
)

norm_act_backward = DifferentiableOp(
    "norm_act_backward(Tensor dy, Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, bool given,"
    " float eps, str act, float slope, bool[] needs) -> (Tensor, Tensor, Tensor)",
    launch=launch_backward,
    fake=lambda dy, x, mean, var, weight, bias, *_: new_gradients(x, weight, weight if bias is None else bias),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, _, _, _, groups, _, eps, act, slope = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.settings = False, eps, act, slope
    # For fastgan.regularizers, which refuses a critic whose samples depend on each other.
    ctx.couples_samples = groups == 1 and x.shape[0] > 1
    ctx.save_for_backward(x, mean, var, weight, bias)


def _backward(ctx: Any, dy: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return norm_act_backward(dy, *ctx.saved_tensors, *ctx.settings, list(ctx.needs_input_grad[:3]))


def _fake(x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, batches: Any, groups: int, *_: Any) -> Any:
    statistics = (x.new_empty(groups, x.shape[1], dtype=compute_dtype(x.dtype)) for _ in range(2))
    return empty_dense(x), *statistics


_norm_act = DifferentiableOp(
    "norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, Tensor? batches,"
    " int groups, float? momentum, float eps, str act, float slope) -> (Tensor, Tensor, Tensor)",
    launch=launch_forward,
    fake=_fake,
    setup_context=_save_for_backward,
    backward=_backward,
)
"""Returns the output, and mean and variance [groups, C].

In eager mode it updates the running statistics, which have no derivative. A registered operator with a derivative must
not change its arguments, so torch.compile never passes them.
"""


def _save_for_fixed_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, eps, act, slope = inputs
    ctx.settings = True, eps, act, slope
    ctx.save_for_backward(*tensors)


def _fixed_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 3, 4)]
    dx, dweight, dbias = norm_act_backward(dy, *ctx.saved_tensors, *ctx.settings, needs)
    return dx, None, None, dweight, dbias


_fixed_norm_act = DifferentiableOp(
    "fixed_norm_act(Tensor x, Tensor mean, Tensor var, Tensor? weight, Tensor? bias, float eps, str act, float slope)"
    " -> Tensor",
    launch=launch_fixed,
    fake=lambda x, *_: empty_dense(x),
    setup_context=_save_for_fixed_backward,
    backward=_fixed_backward,
)
"""norm_act with given statistics [C]."""


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    norm: str = "batch",
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    act: str = "linear",
    negative_slope: float = 0.2,
) -> Tensor:
    """Batch or instance normalization, scale and shift, and an activation.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        weight, bias: [C] or [N, C], any floating-point type; ``None`` for 1 and 0.
        norm: ``"batch"`` for statistics per channel, over samples and pixels; ``"instance"`` for statistics per sample
            and channel, over the pixels.
        running_mean, running_var: [C], both or neither. In training they are updated in place by ``momentum`` towards
            the mean and the unbiased variance of the batch (for instance norm, their average over the samples);
            otherwise they are the statistics.
        num_batches_tracked: int64 [], counts the calls that update the running statistics, without a separate launch.
        training: whether the statistics are those of ``x``. Without running statistics they always are.
        momentum: ``None`` for the average over all batches, which needs ``num_batches_tracked``.
        eps: added to the biased variance; finite, at least 0.
        act: ``"linear"``, ``"relu"`` or ``"lrelu"``.
        negative_slope: slope of ``"lrelu"`` below zero; finite, at least 0.

    Returns:
        act(weight * (x - mean) / sqrt(var + eps) + bias) in the shape, type and layout of ``x``. Differentiable twice
        in ``x``, ``weight`` and ``bias``, both orders fused; a third raises RuntimeError. Saves x, weight, bias and the
        statistics.

    Raises:
        ValueError: for a shape, device or value other than those above, and, as torch does, for statistics of a single
            value.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("norm_act", x)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            check_tensor("norm_act", name, tensor)
            check_operand("norm_act", name, tensor, x.shape[: tensor.dim()] if tensor.dim() == 2 else x.shape[1:2], x)
    if norm not in NORMS:
        raise ValueError(f"norm_act: norm is {norm!r}, expected {' or '.join(map(repr, NORMS))}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("norm_act: only one of running_mean and running_var is given, expected both or neither")
    if running_mean is not None:
        check_operand("norm_act", "running_mean", running_mean, x.shape[1:2], x)
        check_operand("norm_act", "running_var", running_var, x.shape[1:2], x)
    if momentum is None and running_mean is not None and num_batches_tracked is None:
        raise ValueError("norm_act: momentum is None without num_batches_tracked, expected a number or that counter")
    check_activation("norm_act", act, negative_slope)
    check_eps("norm_act", eps)
    of_x = training or running_mean is None
    if of_x:
        _check_count(x, norm)
    if not training or running_mean is None:
        num_batches_tracked = None
    if weight is not None and bias is not None and weight.dim() != bias.dim():
        weight, bias = (t.expand(x.shape[:2]) for t in (weight, bias))
    slope, eps = float(negative_slope), float(eps)
    if not runs_triton(x):
        return reference.norm_act(
            guard_second_order(x), weight, bias, norm=norm, running_mean=running_mean, running_var=running_var,
            num_batches_tracked=num_batches_tracked, training=training, momentum=momentum, eps=eps, act=act,
            negative_slope=slope,
        )  # fmt: skip
    if not of_x:
        return _fixed_norm_act(x, running_mean, running_var, weight, bias, eps, act, slope)
    groups = x.shape[0] if norm == "instance" else 1
    running = (running_mean, running_var, num_batches_tracked) if training else (None, None, None)
    settings = groups, momentum, eps, act, slope
    if momentum is None and num_batches_tracked is not None:
        num_batches_tracked += 1
    if running[0] is None or (groups == 1 and not torch.compiler.is_compiling()):
        return _norm_act(x, weight, bias, *running, *settings)[0]
    y, mean, var = _norm_act(x, weight, bias, None, None, None, *settings)
    count = x.numel() // mean.numel() if x.numel() else 0
    if momentum is not None and num_batches_tracked is not None:
        num_batches_tracked += 1
    if count:
        reference.move_running_statistics(*running, momentum, mean.mean(0), var.mean(0) * (count / (count - 1)))
    return y


def _check_count(x: Tensor, norm: str) -> None:
    """torch's own errors."""
    pixels = x.shape[2:].numel()
    if norm == "batch" and x.shape[0] * pixels == 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if norm == "instance" and pixels == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {x.shape}")
