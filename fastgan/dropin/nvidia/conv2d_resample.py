"""Convolution with resampling up or down: ``torch_utils.ops.conv2d_resample``."""

import operator
from collections.abc import Sequence

from torch import Tensor

# Of the package that this module is served in, whose switches count.
from . import conv2d_gradfix
from .upfirdn2d import _parse_padding, pad_for_filter, upfirdn2d


def conv2d_resample(
    x: Tensor,
    w: Tensor,
    f: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    flip_weight: bool = True,
    flip_filter: bool = False,
) -> Tensor:
    """Upsamples with a filter, convolves, and downsamples with the same filter; differentiable to any order.

    Args:
        x: [N, C, H, W], any floating-point type.
        w: [channels out, C / groups, height, width] in the type of ``x``.
        f: as in ``upfirdn2d``; upsampling has the gain ``up**2``.
        padding: as in ``upfirdn2d``, of the upsampled image, in addition to what the filter needs.
        flip_weight: correlate with ``w``, as ``torch.nn.functional.conv2d`` does, instead of convolving.
        flip_filter: correlate with ``f`` instead of convolving.
    """
    up, down = operator.index(up), operator.index(down)
    pads = _parse_padding(padding)
    if up > 1:
        pads = pad_for_filter(pads, f, up=(up, up))
    if down > 1:
        pads = pad_for_filter(pads, f, down=(down, down))
    left, right, top, bottom = pads
    height, width = w.shape[2:]
    pointwise = height == width == 1
    kernel = w if flip_weight or pointwise else w.flip((2, 3))

    def resample(x: Tensor, up: int = 1, down: int = 1, pads: Sequence[int] = (0, 0, 0, 0), gain: int = 1) -> Tensor:
        return upfirdn2d(x, f, up=up, down=down, padding=pads, flip_filter=flip_filter, gain=gain)

    if up == 1 and down == 1:
        if left == right >= 0 and top == bottom >= 0:
            return conv2d_gradfix.conv2d(x, kernel, padding=(top, left), groups=groups)
        return conv2d_gradfix.conv2d(upfirdn2d(x, None, padding=pads), kernel, groups=groups)
    if up == 1:
        # A kernel of one pixel needs only the pixels that stay.
        if pointwise:
            return conv2d_gradfix.conv2d(resample(x, down=down, pads=pads), kernel, groups=groups)
        return conv2d_gradfix.conv2d(resample(x, pads=pads), kernel, stride=down, groups=groups)
    if pointwise and down == 1:
        return resample(conv2d_gradfix.conv2d(x, kernel, groups=groups), up=up, pads=pads, gain=up**2)
    # Filter and convolution change places: a transposed convolution skips the zeros that were inserted. It pads by
    # height - 1 and width - 1 on all sides, without the zeros after the last pixel.
    y = conv2d_gradfix.conv_transpose2d(x, _transposed(kernel, groups), stride=up, groups=groups)
    pads = left - (width - 1), right - (width - up), top - (height - 1), bottom - (height - up)
    y = resample(y, pads=pads, gain=up**2)
    return y if down == 1 else resample(y, down=down)


def _transposed(kernel: Tensor, groups: int) -> Tensor:
    """The kernel with which a transposed convolution correlates."""
    channels_out, channels_in, height, width = kernel.shape
    grouped = kernel.flip((2, 3)).reshape(groups, channels_out // groups, channels_in, height, width)
    return grouped.transpose(1, 2).reshape(groups * channels_in, channels_out // groups, height, width)
