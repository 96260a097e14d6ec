from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fastgan_kernels import reference
from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes, pixels


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    # Odd sixteenths plus eighths: never 0, exact in bfloat16.
    x = (random(shape, 1) * 4).round().clamp(-20, 20) / 8 + 1 / 16
    bias = (random(shape[1:2], 2) * 4).round().clamp(-20, 20) / 8
    return [x, bias]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    x, bias = inputs
    settings = ("lrelu", 0.2, 1.5, 1.25)
    y = reference.bias_act(x, bias, gain=1.5, clamp=1.25).detach()
    g = random(x.shape, 3, x.dtype).requires_grad_()
    ops = torch.ops.fastgan
    return [
        (ops.bias_act.default, (x, bias, *settings)),
        (ops.bias_act.default, (x, None, "linear", 0.2, 1.5, None)),
        (ops.bias_act_derivative.default, (g, bias, y, *settings, True, True)),
        (ops.bias_act_derivative.default, (g, None, y, *settings, True, False)),
        (ops.bias_act_derivative.default, (None, bias, y, *settings, False, True)),
    ]


SPEC = OpSpec(
    name="bias_act",
    inputs=_inputs,
    settings=st.fixed_dictionaries(
        {
            "act": st.sampled_from(["linear", "relu", "lrelu"]),
            "negative_slope": st.sampled_from([0.0, 0.2, 1.0, 1.7]),
            "gain": st.sampled_from([1.0, 1.5, 0.5]),
            # Far from every value that the grid of inputs can give, in every type.
            "clamp": st.sampled_from([None, 1.234, 1e4]),
        }
    ),
    fixed_settings=(
        {"act": "lrelu", "gain": 1.5, "clamp": 1.234},
        {"act": "relu"},
        {"act": "linear", "gain": 0.5},
    ),
    reduction=lambda shape: shape[0] * pixels(shape),
    # One row, one column, a tile and one more; more columns than a tile has; more rows than one pass of a program.
    shapes=((1, 1), (2, 3, 1, 1), (1, 1025), (3, 2, 1023), (1, 2, 4099), (700, 5), (520, 3, 2, 3), (2, 37, 13, 11)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(y),
)

F32, BF16 = torch.float32, torch.bfloat16

TRAFFIC = Traffic(
    operands=lambda x: [torch.ones(x.shape[1], dtype=x.dtype, requires_grad=True)],
    read_by_backward=lambda x, operands, y: [y],
    bars=(
        # Rows of pixels, aligned and not (an odd row of 10,403 elements costs a sector more for each of its tiles).
        Bars(
            1.02,
            1.02,
            (
                Problem((1, 2, 512, 512), F32),
                Problem((64, 64, 14, 14), BF16),
                Problem((3, 13, 101, 103), F32),
                Problem((6, 13, 101, 103), BF16),
                Problem((8, 3, 128, 128), F32, True),
                Problem((16, 3, 128, 128), BF16, True),
            ),
        ),
        # Small problems are cut fine, and every program leaves a partial sum of each channel.
        Bars(
            1.02,
            1.02,
            (Problem((4, 64, 32, 32), F32, True), Problem((8, 64, 32, 32), BF16, True), Problem((512, 1024), F32)),
            apart=0.04,
        ),
    ),
)
