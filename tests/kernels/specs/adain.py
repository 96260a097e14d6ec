import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes, pixels


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    # bfloat16 values: every type gets the same problem.
    values = random(shape, 1), random(shape[:2], 2), random(shape[:2], 3)
    return [t.bfloat16().double() for t in values]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    # Of style_epilogue with nothing before or after the normalisation.
    x, scale, shift = inputs
    settings = "linear", 1.0, "paper", 1e-5
    absent = (None,) * 4
    ops = torch.ops.fastgan
    _, mean, rstd = ops.style_epilogue.default(x.detach(), scale.detach(), shift.detach(), *absent, *settings)
    g = random(x.shape, 4, x.dtype).requires_grad_()
    operands = g, x, scale, None, *absent, mean, rstd, *settings
    backward = ops.style_epilogue_backward.default
    return [
        (ops.style_epilogue.default, (x, scale, shift, *absent, *settings)),
        *(
            (backward, (*operands, *map(bool, needs), False, False, False))
            for needs in ((1, 1, 1), (1, 0, 0), (0, 1, 1))
        ),
    ]


SPEC = OpSpec(
    name="adain",
    inputs=_inputs,
    settings=st.fixed_dictionaries({"eps": st.sampled_from([1e-5, 1e-8, 0.1])}),
    fixed_settings=({}, {"eps": 1e-2}),
    reduction=pixels,
    # A pixel, two, several planes a block, a plane a block, the end of the registers, spans of every length; and,
    # channels-last in bfloat16 and float64, planes beyond the registers that one span holds.
    shapes=(
        (1, 1, 1),
        (2, 3, 2),
        (300, 3, 2, 3),
        (2, 5, 13, 11),
        (1, 2, 4096),
        (1, 2, 4097),
        (1, 1, 16385),
        (1, 3, 40001),
        (1, 33, 31, 37),
        (2, 17, 23, 41),
    ),
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs[:2]) + 2 * 4 * math.prod(y.shape[:2]),
)

F32, BF16 = torch.float32, torch.bfloat16

TRAFFIC = Traffic(
    operands=lambda x: [torch.ones(x.shape[:2], dtype=x.dtype, requires_grad=True) for _ in range(2)],
    read_by_backward=lambda x, operands, y: [x, operands[0]],
    bars=(
        # Planes that stay in registers.
        Bars(
            1.02,
            1.25,
            (
                Problem((16, 256, 8, 8), F32),
                Problem((4, 64, 64, 64), BF16),
                Problem((2, 16, 128, 128), F32),
                Problem((2, 17, 101, 103), F32),
                Problem((4, 17, 101, 103), BF16),
                Problem((4, 64, 32, 32), F32, True),
            ),
        ),
        # Longer ones are read twice: cut in spans, or whole.
        Bars(
            1.5,
            1.75,
            (Problem((1, 4, 256, 256), F32), Problem((1, 4, 512, 512), BF16), Problem((1, 128, 129, 128), F32)),
        ),
        # Odd rows: a sector more for each tile that does not start at one.
        Bars(1.51, 1.75, (Problem((1, 5, 257, 255), F32), Problem((1, 9, 257, 255), BF16))),
        # In channels-last the registers hold fewer pixels of a plane, since a program takes several planes.
        Bars(1.5, 1.75, (Problem((8, 64, 32, 32), BF16, True),)),
        # Few planes are cut into many spans, and each reads the partials of all.
        Bars(1.5, 1.75, (Problem((1, 32, 96, 96), F32, True), Problem((1, 3, 300, 300), F32, True)), apart=0.08),
    ),
)
