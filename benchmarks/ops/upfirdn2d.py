"""The blur of StyleGAN's networks, around every change of resolution. The setting ``taps`` is the kernel's shape."""

import math
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from benchmarks.op import BF16, F16, F32, F64, Call, Choose, Op, Operands, Problem, Settings, Shape, Traffic


def _depthwise(x: Tensor, kernel: Tensor, *, padding: tuple[int, ...]) -> Tensor:
    window = kernel.flip(0, 1).expand(x.shape[1], 1, *kernel.shape)
    return F.conv2d(F.pad(x, padding), window, groups=x.shape[1])


def _eighths(t: Operands, **_: Any) -> Operands:
    """Taps without symmetry that are exact in every type."""
    return {**t, "kernel": (t["kernel"] * 8).round() / 8}


def _four_axes(shape: Shape) -> Shape:
    return (*shape, 1, 1)[:4] if len(shape) < 4 else (*shape[:3], math.prod(shape[3:]))


def _settings(choose: Choose) -> Settings:
    kh, kw = choose(range(1, 5)), choose(range(1, 4))
    separable = choose((False, False, False, True))
    up, down = choose(((1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 3), (3, 2)))

    def pads(size: int) -> list[int]:
        # Together they leave one window on an image of one pixel.
        one = choose(range(-3, size + 2))
        other = size - 1 - one + choose(range(3))
        return [one, other] if choose((False, True)) else [other, one]

    return {
        "taps": (kw,) if separable else (kh, kw),
        "up": up,
        "down": down,
        "padding": [*pads(kw), *pads(kw if separable else kh)],
        "gain": choose((1.0, 4.0, -0.3)),
    }


_SHAPE = (16, 64, 64, 64)
_TWO = {"taps": (2, 2), "padding": (1, 0, 1, 0)}
_UP = {"up": 2, "gain": 4.0}
_LEANING = {"taps": (3, 2), "padding": (0, 1, 1, 1)}

OP = Op(
    name="upfirdn2d",
    operands=lambda shape, *, taps, **_: {"x": shape, "kernel": taps},
    arrange=_eighths,
    defaults={"taps": (4, 4), "padding": (2, 1, 2, 1)},
    shaping=("taps",),
    constants=("kernel",),
    # The filter is linear, so only dy gets a second gradient.
    reads={"backward": ("dy",), "double_backward": ()},
    penalized=("x",),
    second=("dy",),
    reduction=lambda shape: 16,
    saved=lambda t: [t["kernel"]],
    problems=(
        Problem("stylegan_g_1024", (4, 16, 1024, 1024), "StyleGAN generator at 1024 px, 4 samples per GPU", key=True),
        Problem("stylegan_d_256", (4, 64, 256, 256), "StyleGAN discriminator at 256 px, 4 samples per GPU", key=True),
        Problem("stylegan_d_32", (8, 512, 32, 32), "StyleGAN discriminator at 32 px, 8 samples per GPU", key=True),
        Problem("stylegan_d_64", (4, 256, 64, 64), "StyleGAN discriminator at 64 px, 4 samples per GPU"),
        Problem("stylegan_d_8", (32, 512, 8, 8), "StyleGAN discriminator at 8 px, 32 samples per GPU"),
    ),
    torch_functions={"depthwise_convolution": _depthwise},
    fixed=(
        {**_LEANING, "gain": 1.5},
        {"up": 2, "taps": (2, 3), "padding": (1, 0, -1, -1), "gain": 4.0},
        {"down": 2, "taps": (2, 3), "padding": (1, 1, 2, -1)},
    ),
    choices=_settings,
    # One pixel; one row; one column; several images per tile; strips and columns that fill no tile; many channels.
    shapes=((1, 1, 1, 1), (1, 2, 1, 70), (1, 2, 70, 1), (37, 5, 2, 1), (1, 2, 19, 33), (1, 67, 3, 2)),
    drawn=tuple(
        tuple((1, most) for most in sizes) for sizes in ((2, 4, 9, 9), (1, 40, 3, 3), (2, 2, 30, 3), (1, 2, 3, 70))
    ),
    adapt=_four_axes,
    windows=True,
    empty=((0, 3, 4, 4), (2, 0, 4, 4)),
    compiled=(
        # Only few, since these kernels are long and take the compiler longer than those of other ops.
        # Blurs of StyleGAN 1 and 2, also before a strided convolution (an odd number of columns); small images.
        Call(_SHAPE, F32, True, settings={"taps": (3,), "padding": 1}),
        # Doubling the size and, in the backward pass, halving it.
        Call(_SHAPE, F32, True, settings=_UP),
        # More than 2^31 elements; the other types.
        Call((2, 16, 8192, 8200), F32, settings=_TWO),
        Call((2, 16, 8192, 8200), F16, True, settings=_TWO),
        Call((4, 16, 64, 64), F64, settings=_TWO),
        # Long separable filters: StyleGAN3's and augmentation's, up, down and both adjoints; aligned and unaligned.
        Call((8, 64, 128, 128), F32, settings={"taps": (12,), "padding": (6, 5, 6, 5), **_UP}),
        Call((8, 64, 128, 128), BF16, settings={"taps": (12,), "padding": 5, "down": 2}),
        Call((4, 32, 131, 131), F16, settings={"taps": (12,), "padding": (6, 5, 6, 5)}),
        # Two-dimensional: StyleGAN3's radial filter. One axis at a time. Too long for a matrix; in float64.
        Call((8, 64, 64, 64), BF16, True, settings={"taps": (12, 12), "padding": 5, "down": 2}),
        Call((4, 16, 64, 64), F32, settings={"taps": (90,), "padding": 45}),
        Call((4, 16, 64, 64), F64, settings={"taps": (12,), "padding": (6, 5, 6, 5), **_UP}),
    ),
    traffic=(
        # Traffic beyond the first level of cache. At this size tiles are small, so much is read around each one;
        # test_upfirdn2d.py checks larger problems, and the loads of threads.
        Traffic(1.1, 1.1, (Call((1, 16, 128, 128), F32, settings=_LEANING),), per="program"),
        Traffic(1.25, 1.25, (Call((8, 64, 32, 32), BF16, True, settings=_LEANING),), per="program"),
    ),
)
