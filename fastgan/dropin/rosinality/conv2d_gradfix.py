"""Convolutions that can skip the gradients of their weights: ``op.conv2d_gradfix``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from fastgan.dropin.convolution import convolve

# Scripts set it. The convolutions differentiate twice whatever it is.
enabled = True
weight_gradients_disabled = False


@contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Backward passes within the block compute no gradients of the weights of convolutions that ran before or in it."""
    global weight_gradients_disabled
    before, weight_gradients_disabled = weight_gradients_disabled, True
    try:
        yield
    finally:
        weight_gradients_disabled = before


def _skips_weights() -> bool:
    return weight_gradients_disabled


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """``torch.nn.functional.conv2d`` that heeds :func:`no_weight_gradients`. Differentiable to any order."""
    return convolve(input, weight, bias, stride, padding, dilation, False, 0, groups, _skips_weights)


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
    """``torch.nn.functional.conv_transpose2d`` that heeds :func:`no_weight_gradients`. Differentiable to any order."""
    return convolve(input, weight, bias, stride, padding, dilation, True, output_padding, groups, _skips_weights)
