"""Activations inside kernels, and their derivatives.

Derivatives of piecewise linear activations are computed from the output. Those of curved ones are computed from the
input: a rounded output is not exact enough (1 - tanh^2 where tanh is near 1).
"""

import triton
import triton.language as tl

ACTIVATIONS = ("linear", "relu", "lrelu")
CURVED_ACTIVATIONS = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")

# Comparisons are arranged so that NaN passes, as in torch. Branches are selected, not multiplied by 0, so that no NaN
# comes from the other branch. Constants become tensors of the right type: in the interpreter a bare one is a float32.


@triton.jit
def _expm1(x, COMPUTE: tl.constexpr):
    """exp(x) - 1 for x <= 0; near 0, where the difference would cancel, by Taylor's series."""
    border = tl.full((), -0.3, COMPUTE)
    near = tl.where(x < border, border, x)
    series = tl.full(x.shape, 0.0, COMPUTE)
    for i in tl.static_range(14):
        series = (series + 1) * near * tl.full((), 1 / (14 - i), COMPUTE)
    return tl.where(x < border, tl.exp(x) - 1, series)


@triton.jit
def _log1p(x, COMPUTE: tl.constexpr):
    """log(1 + x) for 0 <= x <= 1, as 2 artanh(x / (2 + x)) by its series."""
    z = x / (x + 2)
    series = tl.full(x.shape, 0.0, COMPUTE)
    for i in tl.static_range(17):
        series = series * z * z + tl.full((), 1 / (33 - 2 * i), COMPUTE)
    return 2 * z * series


@triton.jit
def curved_activation(u, ACT: tl.constexpr, ORDER: tl.constexpr, COMPUTE: tl.constexpr):
    """A curved activation of ``u`` (ORDER 0), or its first or second derivative."""
    # The exponent is at most 0, so this does not overflow.
    e = tl.exp(-tl.abs(u))
    if ACT == "tanh":
        e = e * e
        size = -_expm1(-2 * tl.abs(u), COMPUTE) / (1 + e)
        tanh = tl.where(u < 0, -size, size)
        slope = 4 * e / ((1 + e) * (1 + e))
        y = tanh if ORDER == 0 else slope if ORDER == 1 else -2 * tanh * slope
    elif ACT == "elu" or ACT == "selu":
        alpha = tl.full((), 1.0 if ACT == "elu" else 1.6732632423543772848170429916717, COMPUTE)
        below = tl.where(u > 0, tl.full((), 0.0, COMPUTE), u)
        if ORDER == 0:
            y = tl.where(u > 0, u, alpha * _expm1(below, COMPUTE))
        elif ORDER == 1:
            y = tl.where(u > 0, 1.0, alpha * tl.exp(below))
        else:
            # The second derivative is 0 at the kink, as in torch.
            y = tl.where(u >= 0, 0.0, alpha * tl.exp(below))
        if ACT == "selu":
            y = y * tl.full((), 1.0507009873554804934193349852946, COMPUTE)
    else:
        # s = sigmoid(u), and t = 1 - s, which a subtraction would round.
        s = tl.where(u < 0, e, 1.0) / (1 + e)
        t = tl.where(u < 0, 1.0, e) / (1 + e)
        if ACT == "sigmoid":
            y = s if ORDER == 0 else s * t if ORDER == 1 else s * t * (t - s)
        elif ACT == "swish":
            y = u * s if ORDER == 0 else s * (1 + u * t) if ORDER == 1 else s * t * (2 + u * (t - s))
        elif ORDER == 0:
            # torch's softplus is linear beyond 20.
            y = tl.where(u > 20, u, tl.where(u > 0, u, 0.0) + _log1p(e, COMPUTE))
        else:
            y = tl.where(u > 20, 1.0 if ORDER == 1 else 0.0, s if ORDER == 1 else s * t)
    return y


@triton.jit
def activate(y, ACT: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    if ACT == "relu":
        y = tl.where(y <= 0, 0.0, y)
    elif ACT == "lrelu":
        y = tl.where(y > 0, y, y * tl.full((), SLOPE, COMPUTE))
    elif ACT != "linear":
        y = curved_activation(y, ACT, 0, COMPUTE)
    return y


@triton.jit
def through_activation(g, y, ACT: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    """``g`` times the activation's derivative; ``y`` is the activation's output or any positive multiple of it."""
    if ACT == "relu":
        g = tl.where(y <= 0, 0.0, g)
    elif ACT == "lrelu":
        g = tl.where(y > 0, g, g * tl.full((), SLOPE, COMPUTE))
    return g
