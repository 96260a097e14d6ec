"""A convolution by torch's operators whose backward pass can skip the gradient of the weight.

Convolution and its two gradients are the derivatives of one trilinear form in x, the weight and dy; each is a
derivative of the others, so all orders exist, and each order checks whether to skip.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from fastgan.dropin.arguments import needs_torchs_operators

# One number, or [y, x].
_Pair = int | Sequence[int]
# The arguments of torch.ops.aten.convolution after the operands: stride, padding, dilation, transposed, output_padding
# and groups.
_Settings = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]


def convolutions(skips_weights: Callable[[], bool]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Makes ``conv2d`` and ``conv_transpose2d`` as in torch; backward passes of every order check ``skips_weights``."""

    def conv2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: _Pair = 1,
        padding: _Pair = 0,
        dilation: _Pair = 1,
        groups: int = 1,
    ) -> Tensor:
        """``torch.nn.functional.conv2d`` that respects ``no_weight_gradients``. Differentiable to any order."""
        settings = _pair(stride), _pair(padding), _pair(dilation), False, (0, 0), groups
        return _convolve(input, weight, bias, settings, skips_weights)

    def conv_transpose2d(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: _Pair = 1,
        padding: _Pair = 0,
        output_padding: _Pair = 0,
        groups: int = 1,
        dilation: _Pair = 1,
    ) -> Tensor:
        """``torch.nn.functional.conv_transpose2d`` that respects ``no_weight_gradients``, to any order."""
        settings = _pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups
        return _convolve(input, weight, bias, settings, skips_weights)

    return conv2d, conv_transpose2d


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings, skips_weights: Callable[[], bool]
) -> Tensor:
    x, weight, bias = _autocast(x), _autocast(weight), None if bias is None else _autocast(bias)
    if needs_torchs_operators() or not (weight.requires_grad and torch.is_grad_enabled()):
        return torch.ops.aten.convolution(x, weight, bias, *settings)
    return _Derivative.apply(2, settings, skips_weights, x, weight, None, bias)


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
