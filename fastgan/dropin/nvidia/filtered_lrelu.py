"""Leaky ReLU at a higher resolution: ``torch_utils.ops.filtered_lrelu``."""

import math
from collections.abc import Sequence

from torch import Tensor

import fastgan_kernels
from fastgan.dropin.arguments import implementation


def filtered_lrelu(
    x: Tensor,
    fu: Tensor | None = None,
    fd: Tensor | None = None,
    b: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = math.sqrt(2),
    slope: float = 0.2,
    clamp: float | None = None,
    flip_filter: bool = False,
    impl: str = "cuda",
) -> Tensor:
    """Adds a bias, upsamples, applies a leaky ReLU with gain and clamp, and downsamples; differentiable twice.

    Args:
        x: [N, C, H, W], any floating-point type.
        fu, fd: filters of up- and downsampling, as ``f`` in ``upfirdn2d``; upsampling has the gain ``up**2``.
        b: [C] in the type of ``x``, or None.
        padding: as in ``upfirdn2d``, of the upsampled image.
        gain: gain before the leaky ReLU, above 0.
        slope: slope below zero, at least 0.
        clamp: limits the output of the leaky ReLU to [-clamp, clamp]; at least 0, or None.
        flip_filter: correlate instead of convolving with both filters.
        impl: ``"cuda"`` for the fused op, ``"ref"`` for plain torch.
    """
    with implementation("filtered_lrelu", impl):
        return fastgan_kernels.filtered_lrelu(
            x, fu, fd, b, up=up, down=down, padding=padding, gain=gain, negative_slope=slope, clamp=clamp,
            flip=flip_filter,
        )  # fmt: skip


def _init() -> bool:
    """Scripts call it to build their extension ahead; there is nothing to build."""
    return True
