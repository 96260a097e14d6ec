"""FIR resampling of images: ``op.upfirdn2d``."""

from collections.abc import Sequence

from torch import Tensor

import fastgan_kernels
from fastgan.dropin.arguments import check_image, check_tensor, integers


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
    check_image("upfirdn2d", "input", input)
    check_tensor("upfirdn2d", "kernel", kernel)
    if kernel.dim() != 2:
        raise ValueError(f"upfirdn2d: kernel has shape {list(kernel.shape)}, expected [height, width]")
    up, down = (integers("upfirdn2d", name, by, (2,), 1) for name, by in (("up", up), ("down", down)))
    pads = integers("upfirdn2d", "pad", list(pad), (2, 4))
    return fastgan_kernels.upfirdn2d(
        input, kernel, up=(up[0], up[-1]), down=(down[0], down[-1]), padding=pads * (4 // len(pads))
    )
