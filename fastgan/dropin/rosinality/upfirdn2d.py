"""FIR resampling of images: ``op.upfirdn2d``."""

from collections.abc import Sequence

from torch import Tensor

import fastgan_kernels


def upfirdn2d(
    input: Tensor,
    kernel: Tensor,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    pad: Sequence[int] = (0, 0),
) -> Tensor:
    """Inserts zeros, pads or crops, convolves each channel with a kernel, and keeps every ``down``-th pixel.

    Differentiable to any order in ``input``.

    Args:
        input: [N, C, H, W], any floating-point type.
        kernel: [height, width], constant.
        up, down: factors: one number or (x, y).
        pad: (before, after) for both axes, or (x before, x after, y before, y after); negative numbers crop.
    """
    pads = [*pad] * 2 if len(pad) == 2 else [*pad]
    return fastgan_kernels.upfirdn2d(input, kernel, up=up, down=down, padding=pads)
