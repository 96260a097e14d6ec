"""spectral_normalize of a single weight, with vectors that belong to its shape; lists are in test_spectral_norm.py."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import fastgan_kernels
from fastgan_kernels import reference
from tests.kernels.harness import random
from tests.kernels.opspec import Bars, OpSpec, Problem, Traffic, nbytes, sizes


def vectors(weight: Tensor, *, dim: int = 0) -> tuple[Tensor, Tensor]:
    """u and v, exact in every type, and positive so that sigma of a positive weight is not near 0."""
    rows = weight.shape[dim]
    u, v = (
        (0.5 + torch.arange(size, device=weight.device) * step % 11 / 16).to(weight.dtype)
        for size, step in ((rows, 3), (math.prod(weight.shape) // rows, 7))
    )
    return u, v


def _inputs(shape: Sequence[int]) -> list[Tensor]:
    return [(random(shape, 1) + 0.5).bfloat16().double()]


def _apply(function: Any, weight: Tensor, *, given: bool = False, dim: int = 0) -> Tensor:
    u, v = vectors(weight, dim=dim)
    sigma = None
    if given:
        wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).movedim(dim, 0).flatten(1)
        sigma = (u.to(wide.dtype) @ (wide @ v.to(wide.dtype))).reshape(1)
    return function([weight], [u], [v], sigma, dims=[dim])[0]


def op(weight: Tensor, *vectors_of_traffic: Tensor, **settings: Any) -> Tensor:
    if vectors_of_traffic:
        u, v, *sigma = vectors_of_traffic
        return fastgan_kernels.spectral_normalize([weight], [u], [v], *sigma)[0]
    return _apply(fastgan_kernels.spectral_normalize, weight, **settings)


def expected(weight: Tensor, **settings: Any) -> Tensor:
    return _apply(reference.spectral_normalize, weight, **settings)


def _registered(inputs: list[Tensor]) -> list[tuple[Any, tuple[Any, ...]]]:
    (weight,) = inputs
    u, v = vectors(weight.detach())
    ops = torch.ops.fastgan
    _, copies, sigma = ops.spectral_normalize.default([weight.detach()], [u], [v], None, [0])
    g, h = (random(weight.shape, i, weight.dtype).requires_grad_() for i in (4, 5))
    return [
        (ops.spectral_normalize.default, ([weight], [u], [v], None, [0])),
        (ops.spectral_normalize.default, ([weight], [u], [v], sigma, [0])),
        (ops.spectral_normalize_gradient.default, ([g], [weight], copies, sigma, [0], [0])),
        *(
            (
                ops.spectral_normalize_second.default,
                ([h.detach()], [g.detach()], [weight.detach()], copies, sigma, [0], [0], *needs),
            )
            for needs in ((True, True), (True, False), (False, True))
        ),
    ]


SPEC = OpSpec(
    name="spectral_normalize",
    inputs=_inputs,
    settings=st.fixed_dictionaries({"given": st.booleans(), "dim": st.integers(0, 1)}),
    fixed_settings=({}, {"given": True, "dim": 1}),
    reduction=math.prod,
    # One element; short runs of columns, past a tile of rows and of columns; long ones, past a tile and a chunk.
    shapes=((1, 1), (260, 2, 3, 3), (33, 64), (3, 2081)),
    registered=_registered,
    # Small: every tile of every launch costs the interpreter milliseconds.
    drawn_shapes=st.one_of(
        st.tuples(sizes(40), sizes(20)),
        st.tuples(sizes(9), sizes(140)),
        st.tuples(sizes(9), sizes(7), sizes(5)),
        st.tuples(sizes(9), sizes(5), sizes(4), sizes(4)),
        st.tuples(sizes(3), sizes(3), sizes(2), sizes(2), sizes(2)),
    ),
    # Copies of u, v and sigma; and the weight, which is a parameter.
    saved=lambda inputs, y: nbytes(*inputs) + 4 * (y.shape[0] + math.prod(y.shape[1:]) + 1),
    highest_order=2,
    empty=(),
    op=op,
    reference=expected,
)

F32, BF16 = torch.float32, torch.bfloat16
_ALIGNED = (Problem((256, 128, 3, 3), F32), Problem((512, 1024), BF16), Problem((256, 64, 4, 4), F32, True))

TRAFFIC = Traffic(
    operands=lambda x: list(vectors(x.detach())),
    read_by_backward=lambda x, operands, y: [x],
    bars=(
        # sigma first: W is read twice, as dy is in backward. Apart: each program reads its line of the tables, u and v
        # of its tiles and the partial sums of its layer, all from cache.
        Bars(1.51, 1.35, _ALIGNED, apart=0.12),
        # Rows that start within a sector.
        Bars(1.6, 1.42, (Problem((260, 1031), F32),), apart=0.12),
    ),
)
