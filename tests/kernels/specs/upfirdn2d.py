from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Shape, Traffic, nbytes


def _kernel(kh: int, kw: int) -> Tensor:
    """Taps without any symmetry, exact in every type."""
    return (random((kh, kw), 7).cpu() * 8).round() / 8


KERNEL = _kernel(3, 2)


def _op(x: Tensor, *, kernel: Tensor = KERNEL, **settings: Any) -> Tensor:
    """Kernels are constants, so they are settings of the op here; of one type, whatever that of x."""
    return fastgan_kernels.upfirdn2d(x, kernel.to(x.device), **_same_size(settings, kernel))


def _reference(x: Tensor, *, kernel: Tensor = KERNEL, **settings: Any) -> Tensor:
    return reference.upfirdn2d(x, kernel.to(x.device), **_same_size(settings, kernel))


def _same_size(settings: dict[str, Any], kernel: Tensor) -> dict[str, Any]:
    """Settings without padding keep the size, and lean to the right and to the top."""
    (kh, kw) = kernel.shape[0] - 1, kernel.shape[-1] - 1
    return {"padding": [kw // 2, kw - kw // 2, kh - kh // 2, kh // 2], **settings}


def _four_axes(shape: Sequence[int]) -> Shape:
    return (*shape, 1, 1)[:4] if len(shape) < 4 else (*shape[:3], torch.Size(shape[3:]).numel())


@st.composite
def _settings(draw: st.DrawFn) -> dict[str, Any]:
    kh, kw = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kernel = _kernel(kh, kw)
    if draw(st.integers(0, 3)) == 0:
        kernel, kh = kernel[0], kw
    up, down = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (2, 3), (3, 2)]))

    def pads(size: int) -> list[int]:
        # Together they leave a window on an image of one pixel.
        one = draw(st.integers(-3, size + 1))
        return draw(st.permutations([one, size - 1 - one + draw(st.integers(0, 2))]))

    return {
        "kernel": kernel.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))),
        "up": up,
        "down": down,
        "padding": [*pads(kw), *pads(kh)],
        "gain": draw(st.sampled_from([1.0, 4.0, -0.3])),
    }


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (x,) = inputs
    kernel = KERNEL.to(x.device)
    ops = torch.ops.fastgan
    h, w = x.shape[2:]
    return [
        (ops.upfirdn2d.default, (x, kernel, 1, 1, 1, 0, h, w, 1.0, True)),
        (ops.upfirdn2d.default, (x, kernel[0], 2, 1, 1, 0, 2 * h, 2 * w, 4.0, True)),
        (ops.upfirdn2d_gradient.default, (x, kernel, 1, 2, 1, 1, h // 2, w // 2, 4.0, False)),
    ]


SPEC = OpSpec(
    name="upfirdn2d",
    inputs=lambda shape: [random(shape, 1).bfloat16().double()],
    settings=_settings(),
    fixed_settings=(
        {"gain": 1.5},
        {"up": 2, "kernel": _kernel(2, 3), "padding": [1, 0, -1, -1], "gain": 4.0},
        {"down": 2, "kernel": _kernel(2, 3), "padding": [1, 1, 2, -1]},
    ),
    reduction=lambda shape: 16,
    # A pixel, a row, a column; several images in a tile; strips and columns that fill no tile; many channels.
    shapes=((1, 1, 1, 1), (1, 2, 1, 70), (1, 2, 70, 1), (37, 5, 2, 1), (1, 2, 19, 33), (1, 67, 3, 2)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(KERNEL),
    drawn_shapes=st.one_of(
        st.tuples(*(st.integers(1, most) for most in (2, 4, 9, 9))),
        st.tuples(*(st.integers(1, most) for most in (1, 40, 3, 3))),
        st.tuples(*(st.integers(1, most) for most in (2, 2, 30, 3))),
        st.tuples(*(st.integers(1, most) for most in (1, 2, 3, 70))),
    ),
    adapt=_four_axes,
    output_shape=_four_axes,
    empty=((0, 3, 4, 4), (2, 0, 4, 4)),
    op=_op,
    reference=_reference,
)

TRAFFIC = Traffic(
    operands=lambda x: [],
    read_by_backward=lambda x, operands, y: [],
    # What leaves the first level of cache. Problems of this size are cut fine, so there is much around a tile;
    # test_upfirdn2d.py holds larger ones, and what threads load.
    bars=(
        Bars(1.1, 1.1, (Problem((1, 16, 128, 128), torch.float32),), per="program"),
        Bars(1.25, 1.25, (Problem((8, 64, 32, 32), torch.bfloat16, True),), per="program"),
    ),
)
