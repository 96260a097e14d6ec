"""A convolution by torch's operators whose backward pass can skip the gradient of the weight.

Convolution and its two gradients are the derivatives of one trilinear form in x, the weight and dy; each is a
derivative of the others, so all orders exist, and each order checks whether to skip.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from fastgan.dropin.arguments import check_image, integer, integers, needs_torchs_operators


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
    bias = None if bias is None else _autocast(bias)
    return _Derivative.apply(2, settings, skips_weights, _autocast(x), _autocast(weight), None, bias)


def _pair(op: str, name: str, value: int | Sequence[int], low: int) -> tuple[int, int]:
    values = integers(op, name, value, (1, 2), low)
    return values[0], values[-1]


def _autocast(t: Tensor) -> Tensor:
    """Casts an operand of a convolution as autocast does, before autograd."""
    kind = t.device.type
    if t.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return t
    return t.to(torch.get_autocast_dtype(kind))


class _Derivative(torch.autograd.Function):
    """The derivative of ``<convolution(x, weight), dy>`` by operand 0 (x), 1 (the weight) or 2 (dy, plus the bias).

    It is linear in the other two operands, and uses only shape and layout of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        operand: int,
        settings: _Settings,
        skips: Callable[[], bool],
        x: Tensor,
        weight: Tensor,
        dy: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.operand, ctx.settings, ctx.skips = operand, settings, skips
        ctx.save_for_backward(x, weight, dy)
        if operand == 2:
            return torch.ops.aten.convolution(x, weight, bias, *settings)
        mask = [operand == 0, operand == 1, False]
        return torch.ops.aten.convolution_backward(dy, x, weight, None, *settings, mask)[operand]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        operands = list(ctx.saved_tensors)
        operands[ctx.operand] = gradient
        gradients: list[Tensor | None] = [None] * 4
        for i in range(3):
            if i != ctx.operand and ctx.needs_input_grad[3 + i] and not (i == 1 and ctx.skips()):
                detached = [t.detach() if k == i else t for k, t in enumerate(operands)]
                gradients[i] = _Derivative.apply(i, ctx.settings, ctx.skips, *detached, None)
        if ctx.needs_input_grad[6]:
            gradients[3] = gradient.sum((0, 2, 3))
        return None, None, None, *gradients
