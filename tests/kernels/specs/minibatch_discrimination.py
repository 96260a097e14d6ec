import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes, sizes


def _adapt(shape: Sequence[int]) -> tuple[int, ...]:
    return (*shape, 2)[:3]


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    """A component takes N different values, so that no two samples tie: small multiples of a power of two, exact in
    every type, with distances of about 2 in all, so that no kernel vanishes."""
    n, _, components = shape
    ranks = random(shape, 1).argsort(0) - n // 2
    # Two of n ranks are n / 3 apart on average.
    step = 2.0 ** round(math.log2(6 / (max(n, 1) * max(components, 1))))
    return [ranks.double() * step]


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (m,) = inputs
    ops = torch.ops.fastgan
    g = random(m.shape[:2], 2, m.dtype).requires_grad_()
    v = random(m.shape, 3, m.dtype)
    return [
        (ops.minibatch_discrimination.default, (m,)),
        (ops.minibatch_discrimination_backward.default, (g, m)),
        # Its own derivative refuses.
        *(
            (ops.minibatch_discrimination_double_backward.default, (v, g.detach(), m.detach(), needs_g))
            for needs_g in (True, False)
        ),
    ]


SPEC = OpSpec(
    name="minibatch_discrimination",
    inputs=_inputs,
    settings=st.just({}),
    fixed_settings=({},),
    reduction=lambda shape: shape[0] * shape[2],
    # A sample; tiles along the kernels, along both, along the samples; components that fill a program, and one more.
    shapes=((1, 1, 1), (2, 3, 1), (3, 130, 1), (5, 9, 20), (9, 17, 8), (17, 1, 65), (3, 2, 2048), (2, 1, 2049)),
    registered=_registered,
    saved=lambda inputs, y: nbytes(*inputs),
    # The interpreter takes milliseconds for each sample that passes a program.
    drawn_shapes=st.tuples(st.integers(1, 9), sizes(20), sizes(40)),
    adapt=_adapt,
    output_shape=lambda shape: tuple(shape[:2]),
    keeps_layout=False,
    highest_order=2,
    empty=((0, 3, 4), (2, 0, 4), (2, 3, 0)),
)

TRAFFIC = Traffic(
    operands=lambda m: [],
    read_by_backward=lambda m, operands, o: [m],
    bars=(
        # m is read once as the tiles of all programs and N / 16 times as the samples that pass them: here once.
        Bars(1.95, 1.52, (Problem((16, 1024, 16), torch.float32),)),
        # A tile of 512 components has 4 samples: 8 / 4 times.
        Bars(3.0, 2.0, (Problem((8, 64, 512), torch.float32),)),
    ),
)
