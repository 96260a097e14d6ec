from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    # bfloat16 values: every type gets the same problem.
    return [random(shape, 1).bfloat16().double()]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (x,) = inputs
    g = random(x.shape, 2, x.dtype).requires_grad_()
    ops = torch.ops.fastgan
    return [(ops.pixel_norm.default, (x, 1e-8)), (ops.pixel_norm_backward.default, (g, x, 1e-8))]


SPEC = OpSpec(
    name="pixel_norm",
    inputs=_inputs,
    settings=st.fixed_dictionaries({"eps": st.sampled_from([1e-8, 1e-2, 1.0])}),
    fixed_settings=({}, {"eps": 0.1}),
    reduction=lambda shape: shape[1],
    # A number; several samples a tile; a tile of pixels and one more; strips of two sectors, of one, and chunks of
    # channels (first in float64, then in all types, contiguous and at last in rows too).
    shapes=((1, 1), (37, 5, 3), (2, 3, 1, 1025), (1, 257, 2, 9), (1, 513, 17), (1, 1025, 9), (1, 8193)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs),
)

F32, BF16 = torch.float32, torch.bfloat16

TRAFFIC = Traffic(
    operands=lambda x: [],
    read_by_backward=lambda x, operands, y: [x],
    bars=(
        # All channels of a strip of pixels, or of a row, in registers; the odd planes are read in the longest strips.
        Bars(
            1.02,
            1.02,
            (
                Problem((4, 512, 16, 16), F32),
                Problem((16, 512, 8, 8), BF16),
                Problem((64, 512, 4, 4), BF16),
                Problem((4, 16, 101, 103), F32),
                Problem((512, 512), F32),
                Problem((16, 512, 8, 8), BF16, True),
                Problem((4, 64, 33, 35), F32, True),
            ),
        ),
        # More channels, so shorter strips, and odd planes: a sector more for each strip.
        Bars(1.5, 1.5, (Problem((4, 256, 17, 19), F32),)),
        # More channels than registers hold are read twice.
        Bars(1.5, 1.75, (Problem((1, 2048, 16, 16), F32), Problem((24, 12000), F32))),
    ),
)
