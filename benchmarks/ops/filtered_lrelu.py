"""The leaky ReLU of StyleGAN3's layers, between resampling up and down.

The settings ``up_taps`` and ``down_taps`` are the shapes of the kernels.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, Call, Choose, Op, Operands, Problem, Settings, Shape, Traffic


def _eighths(t: Operands, **_: Any) -> Operands:
    """Images that are exact in bfloat16, and taps without symmetry that are exact in every type."""
    kernels = {name: (t[name] * 8).round() / 8 for name in ("up_kernel", "down_kernel")}
    return {name: kernels[name] if name in kernels else value.bfloat16().to(value.dtype) for name, value in t.items()}


def _four_axes(shape: Shape) -> Shape:
    return (*shape, 1, 1)[:4] if len(shape) < 4 else (*shape[:3], math.prod(shape[3:]))


def _settings(choose: Choose) -> Settings:
    def taps() -> tuple[int, ...]:
        sizes = choose(range(1, 5)), choose(range(1, 5))
        return sizes if choose((True, False)) else sizes[:1]

    up_taps, down_taps = taps(), taps()

    def pads(axis: int) -> list[int]:
        # Together they leave one window on an image of one pixel.
        size = up_taps[axis] + down_taps[axis] - 1
        one = choose(range(-2, size + 2))
        other = size - 1 - one + choose(range(3))
        return [one, other] if choose((False, True)) else [other, one]

    return {
        "up_taps": up_taps,
        "down_taps": down_taps,
        "up": choose((1, 2, 4, (2, 1), (1, 3))),
        "down": choose((1, 2, 4, (1, 2), (3, 1))),
        "padding": [*pads(-1), *pads(0)],
        "gain": choose((1.0, 2**0.5)),
        "negative_slope": choose((0.0, 0.2, 1.0)),
        "clamp": choose((None, 1.234)),
        "flip": choose((False, True)),
    }


def _layer(up: int, padding: int, **settings: Any) -> Settings:
    """A layer of StyleGAN3-T: six taps per factor, and twice the sampling rate between the resamplings."""
    return {"up_taps": (6 * up,), "down_taps": (12,), "up": up, "down": 2, "padding": padding} | settings


def _bytes_of_signs(t: Operands) -> int:
    """Bytes of the saved signs under the first of ``fixed``: one byte per four upsampled pixels."""
    n, c, h, w = t["x"].shape
    return n * c * (2 * h + 5 - 3) * math.ceil((2 * w + 5 - 3) / 4)


def _convolutions(
    x: Tensor, up_kernel: Tensor, down_kernel: Tensor, bias: Tensor, *, up: int, down: int, padding: tuple[int, ...]
) -> Tensor:
    # The padding of the defaults is that with which a transposed convolution has the right size.
    def planes(kernel: Tensor) -> Tensor:
        return torch.outer(kernel, kernel).expand(x.shape[1], 1, -1, -1)

    upsampled = F.conv_transpose2d(x + bias[:, None, None], up**2 * planes(up_kernel), stride=up, groups=x.shape[1])
    y = 2**0.5 * F.leaky_relu(upsampled, 0.2)
    return F.conv2d(y, planes(down_kernel.flip(0)), stride=down, groups=x.shape[1])


OP = Op(
    name="filtered_lrelu",
    operands=lambda shape, *, up_taps, down_taps, **_: {
        "x": shape,
        "up_kernel": up_taps,
        "down_kernel": down_taps,
        "bias": shape[1:2],
    },
    arrange=_eighths,
    defaults={"up_taps": (12,), "down_taps": (12,), "up": 2, "down": 2, "padding": (11, 10, 11, 10)},
    shaping=("up_taps", "down_taps"),
    constants=("up_kernel", "down_kernel"),
    # The activation is piecewise linear, so only dy gets a second gradient.
    reads={"backward": ("dy",), "double_backward": ()},
    penalized=("x",),
    second=("dy",),
    reduction=lambda shape: 16 * math.prod(shape) // shape[1],
    saved=lambda t: [t["up_kernel"], t["down_kernel"], _bytes_of_signs(t)],
    problems=(
        Problem("stylegan3_t_256", (4, 128, 256, 256), "StyleGAN3 generator at 256 px, 4 samples per GPU", key=True),
        Problem("stylegan3_t_52", (4, 512, 52, 52), "StyleGAN3 generator, its layers of 52 px, 4 samples per GPU"),
    ),
    torch_functions={"convolutions": _convolutions},
    fixed=(
        {"up_taps": (4,), "down_taps": (3,), "padding": (3, 2, 2, 3), "gain": 1.5, "clamp": 1.234},
        {"up_taps": (2, 3), "down_taps": (1,), "padding": (1, 1, 1, 0)},
        {"up_taps": (4,), "down_taps": (3, 2), "up": 1, "down": 1, "padding": (3, 2, 2, 3)},
    ),
    choices=_settings,
    # One pixel; one row; one column; partly filled tiles; many channels.
    shapes=((1, 1, 1, 1), (1, 2, 1, 70), (1, 2, 70, 1), (7, 5, 2, 1), (1, 2, 19, 33), (1, 67, 3, 2)),
    drawn=tuple(tuple((1, most) for most in sizes) for sizes in ((2, 4, 9, 9), (1, 2, 30, 3), (1, 2, 3, 70))),
    adapt=_four_axes,
    windows=True,
    empty=((0, 3, 4, 4), (2, 0, 4, 4)),
    sums_gradient_of_x=("bias",),
    compiled=(
        # Only few, since the kernel is long. Layers of StyleGAN3-T that keep or double the size, with a clamp or none.
        Call((8, 512, 36, 36), F32, settings=_layer(2, 10)),
        Call((8, 512, 64, 64), F16, settings=_layer(2, 11, clamp=256.0)),
        Call((4, 128, 256, 256), BF16, settings=_layer(4, 17, clamp=256.0)),
        Call((4, 128, 148, 148), F32, settings=_layer(4, 21)),
        # A layer of StyleGAN3-R, whose downsampling filter is radial.
        Call((8, 1024, 64, 64), F16, settings=_layer(2, 11, down_taps=(12, 12), clamp=256.0)),
        # Unaligned rows.
        Call((4, 32, 129, 129), F32, settings=_layer(2, 10)),
    ),
    allowed={
        "filtered_lrelu._kernel has": "products of matrices bound it, not memory: twelve warps with 168 registers",
        "upfirdn2d._band_kernel has": "the same; only the composition for channels-last images launches it here",
    },
    traffic=(
        # 1.48 is counted: each of three programs side by side loads two parts of 32 columns that start 16 apart, of
        # which 126 columns in all are in the image, for 64: (1.97 + 1) / 2. Neighbors load them too, so L2 has them.
        # Apart are the signs of 138 x 138 pixels, 35 bytes per row (0.15 of x and y). Each program uses 12 bytes of
        # each row and touches one or two sectors for them, so 0.44 is counted, and 0.56 in backward with partial sums.
        # With 88 planes the 264 columns of tiles are one program each; where two share one, rows between them count
        # too.
        Traffic(1.5, 1.5, (Call((1, 88, 64, 64), F32),), apart=0.57, per="program"),
    ),
)
