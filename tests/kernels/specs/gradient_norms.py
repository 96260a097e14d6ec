from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes


def inputs(shape: Sequence[int]) -> list[Tensor]:
    """Norms of about 1/2 and 2 in turn: neither 0 nor near a target of the tests. bfloat16 values."""
    x = random(shape, 1)
    rows = tuple(range(1, x.dim()))
    norms = torch.linalg.vector_norm(x, dim=rows, keepdim=True) if x.numel() else 1.0
    wanted = torch.tensor([0.5, 2.0], dtype=x.dtype, device=x.device).repeat(len(x))[: len(x)]
    return [(x / norms * wanted.reshape(-1, *(1,) * len(rows))).bfloat16().double()]


def elements_of_a_sample(shape: Sequence[int]) -> int:
    return torch.Size(shape[1:]).numel()


def _registered(tensors: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (x,) = tensors
    ops = torch.ops.fastgan
    norms = ops.gradient_norms.default(x.detach())
    d = random(norms.shape, 2, norms.dtype).requires_grad_()
    v = random(x.shape, 3, x.dtype)
    return [
        (ops.gradient_norms.default, (x,)),
        (ops.gradient_norms_backward.default, (d, x, norms)),
        *(
            (ops.gradient_norms_double_backward.default, (v, d.detach(), x.detach(), norms, *needs))
            for needs in ((True, True), (True, False), (False, True))
        ),
    ]


# One short row, many that share a block, several tiles of a row, two spans.
SHAPES = ((1, 1), (300, 3, 2), (3, 2, 4099), (2, 3, 71, 77))

SPEC = OpSpec(
    name="gradient_norms",
    inputs=inputs,
    settings=st.just({}),
    fixed_settings=({},),
    reduction=elements_of_a_sample,
    shapes=SHAPES,
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs, y),
    output_shape=lambda shape: tuple(shape[:1]),
    output_dtype=lambda dtype: torch.float64 if dtype == torch.float64 else torch.float32,
    keeps_layout=False,
    highest_order=2,
)

F32, BF16 = torch.float32, torch.bfloat16
PROBLEMS = (
    # Whole rows and rows cut in spans, the odd ones too.
    Problem((256, 3, 32, 32), F32),
    Problem((512, 2, 32, 32), BF16, True),
    Problem((64, 1, 101, 103), BF16),
    Problem((4, 3, 256, 256), F32, True),
    Problem((4, 3, 257, 255), BF16),
)

TRAFFIC = Traffic(
    operands=lambda x: [],
    read_by_backward=lambda x, operands, y: [x],
    bars=(Bars(1.02, 1.02, PROBLEMS, apart=0.003),),
)
