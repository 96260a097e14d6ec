"""Convolutions that can skip the gradients of their weights: ``op.conv2d_gradfix``."""

from collections.abc import Iterator
from contextlib import contextmanager

from fastgan.dropin.convolution import convolutions

# Scripts set it, without effect: the convolutions always differentiate twice.
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


conv2d, conv_transpose2d = convolutions(lambda: weight_gradients_disabled)
