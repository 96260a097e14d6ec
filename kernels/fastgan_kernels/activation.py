"""Activations inside kernels, and their derivatives, told by the output alone."""

import triton
import triton.language as tl

ACTIVATIONS = ("linear", "relu", "lrelu")

# Comparisons are turned so that NaN passes, as in torch; selections instead of products let none through a closed
# branch. Constants become tensors of the right type here: in the interpreter a bare one is a float32.


@triton.jit
def activate(y, ACT: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    if ACT == "relu":
        y = tl.where(y <= 0, 0.0, y)
    elif ACT == "lrelu":
        y = tl.where(y > 0, y, y * tl.full((), SLOPE, COMPUTE))
    return y


@triton.jit
def through_activation(g, y, ACT: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    """``g`` times the derivative where the activation's output, or any positive multiple of it, is ``y``."""
    if ACT == "relu":
        g = tl.where(y <= 0, 0.0, g)
    elif ACT == "lrelu":
        g = tl.where(y > 0, g, g * tl.full((), SLOPE, COMPUTE))
    return g
