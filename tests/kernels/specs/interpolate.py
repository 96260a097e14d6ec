from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    # Shares from a little below 0 to a little above 1; bfloat16 values: every type gets the same problem.
    alpha = 0.5 + random((shape[0], *(1,) * (len(shape) - 1)), 3).tanh() * 0.6
    return [t.bfloat16().double() for t in (random(shape, 1), random(shape, 2), alpha)]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    real, fake, alpha = inputs
    ops = torch.ops.fastgan
    g = random(real.shape, 4, real.dtype).requires_grad_()
    return [
        (ops.interpolate.default, (real, fake, alpha)),
        (ops.interpolate.default, (real, fake, alpha.detach())),
        (ops.interpolate_backward.default, (g, real, fake, alpha, torch.float32, True, True, True)),
        (ops.interpolate_backward.default, (g, None, None, alpha.detach(), torch.float64, True, True, False)),
        (ops.interpolate_backward.default, (g, real, fake, alpha, torch.float32, False, False, True)),
    ]


SPEC = OpSpec(
    name="interpolate",
    inputs=_inputs,
    settings=st.just({}),
    fixed_settings=({},),
    reduction=lambda shape: torch.Size(shape[1:]).numel(),
    # A number, short rows that share a tile, the width of a tile and one more, several tiles of a row.
    shapes=((1, 1), (700, 3, 2), (3, 1, 1023), (5, 5, 205), (2, 3, 47, 31)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs),
)

F32, BF16 = torch.float32, torch.bfloat16
PROBLEMS = (
    Problem((128, 3, 32, 32), F32),
    Problem((64, 3, 64, 64), BF16, True),
    Problem((4, 3, 256, 256), F32, True),
    Problem((64, 1, 101, 103), BF16),
)


def _fake(x: Tensor) -> Tensor:
    return torch.ones_like(x).requires_grad_()


TRAFFIC = Traffic(
    operands=lambda x: [_fake(x), torch.full((len(x), *(1,) * (x.dim() - 1)), 0.5)],
    read_by_backward=lambda x, operands, y: [operands[1]],
    bars=(Bars(1.02, 1.02, PROBLEMS, apart=0.0),),
)
