"""A convolution by torch's operators whose backward pass can skip the gradient of the weight.

Convolution and its two gradients come from one trilinear form in x, w and dy; each is a derivative of the others, so
all orders exist, and each order checks whether to skip.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fastgan.dropin.arguments import check_image, integer, integers, needs_torchs_operators

_aten = torch.ops.aten


class _Settings(NamedTuple):
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def convolutions(skips_weights: Callable[[], bool]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Makes ``conv2d`` and ``conv_transpose2d`` as in torch; backward passes of every order check ``skips_weights``."""

    def conv2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """``torch.nn.functional.conv2d`` that respects ``no_weight_gradients``. Differentiable to any order."""
        return _convolve(input, weight, bias, stride, padding, dilation, False, 0, groups, skips_weights)

    def conv_transpose2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        """``torch.nn.functional.conv_transpose2d`` that respects ``no_weight_gradients``, to any order."""
        return _convolve(input, weight, bias, stride, padding, dilation, True, output_padding, groups, skips_weights)

    return conv2d, conv_transpose2d


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int | Sequence[int],
    padding: int | Sequence[int],
    dilation: int | Sequence[int],
    transposed: bool,
    output_padding: int | Sequence[int],
    groups: int,
    skips_weights: Callable[[], bool],
) -> Tensor:
    op = "conv_transpose2d" if transposed else "conv2d"
    check_image(op, "input", x)
    check_image(op, "weight", weight)
    settings = _Settings(
        _pair(op, "stride", stride, 1),
        _pair(op, "padding", padding, 0),
        _pair(op, "dilation", dilation, 1),
        transposed,
        _pair(op, "output_padding", output_padding, 0),
        integer(op, "groups", groups, 1),
    )
    if needs_torchs_operators() or not (weight.requires_grad and torch.is_grad_enabled()):
        if transposed:
            stride, padding, dilation, _, output_padding, groups = settings
            return functional.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
        return functional.conv2d(x, weight, bias, settings.stride, settings.padding, settings.dilation, settings.groups)
    x, weight, bias = _autocast(x), _autocast(weight), None if bias is None else _autocast(bias)
    return _Convolution.apply(x, weight, bias, settings, skips_weights)


def _pair(op: str, name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    values = integers(op, name, value, (1, 2), low)
    return values[0], values[-1]


def _autocast(t: Tensor) -> Tensor:
    """Casts an operand of a convolution as autocast does, before autograd."""
    kind = t.device.type
    if t.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return t
    return t.to(torch.get_autocast_dtype(kind))


def _gradient(dy: Tensor, x: Tensor, weight: Tensor, settings: _Settings, which: int) -> Tensor:
    mask = [i == which for i in range(3)]
    return _aten.convolution_backward(dy, x, weight, None, *settings, mask)[which]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings, skips: Callable[[], bool]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings, ctx.skips = settings, skips
        return _aten.convolution(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        dx = _InputGradient.apply(dy, weight, x.detach(), ctx.settings, ctx.skips) if needs_x else None
        dweight = None
        if needs_weight and not ctx.skips():
            dweight = _WeightGradient.apply(dy, x, weight.detach(), ctx.settings, ctx.skips)
        return dx, dweight, dy.sum((0, 2, 3)) if needs_bias else None, None, None


class _InputGradient(torch.autograd.Function):
    """The gradient of the input: linear in dy and the weight; uses only shape and layout of x."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, weight: Tensor, x: Tensor, settings: _Settings, skips: Callable[[], bool]
    ) -> Tensor:
        ctx.save_for_backward(dy, weight)
        ctx.settings, ctx.skips = settings, skips
        return _gradient(dy, x, weight, settings, 0)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
        dy, weight = ctx.saved_tensors
        needs_dy, needs_weight = ctx.needs_input_grad[:2]
        ddy = _Convolution.apply(ddx, weight, None, ctx.settings, ctx.skips) if needs_dy else None
        dweight = None
        if needs_weight and not ctx.skips():
            dweight = _WeightGradient.apply(dy, ddx, weight.detach(), ctx.settings, ctx.skips)
        return ddy, dweight, None, None, None


class _WeightGradient(torch.autograd.Function):
    """The gradient of the weight: linear in dy and x; uses only shape and layout of the weight."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, settings: _Settings, skips: Callable[[], bool]
    ) -> Tensor:
        ctx.save_for_backward(dy, x)
        ctx.settings, ctx.skips = settings, skips
        return _gradient(dy, x, weight, settings, 1)

    @staticmethod
    def backward(ctx: Any, ddweight: Tensor) -> tuple[Tensor | None, ...]:
        dy, x = ctx.saved_tensors
        needs_dy, needs_x = ctx.needs_input_grad[:2]
        ddy = _Convolution.apply(x, ddweight, None, ctx.settings, ctx.skips) if needs_dy else None
        dx = _InputGradient.apply(dy, ddweight, x.detach(), ctx.settings, ctx.skips) if needs_x else None
        return ddy, dx, None, None, None
