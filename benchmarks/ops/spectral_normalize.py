"""All weights of a discriminator, normalized at once. A shape is that of one weight, or a tuple of several."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastgan_kernels
from benchmarks.op import (
    BF16,
    F16,
    F32,
    F64,
    Call,
    Op,
    Operands,
    Problem,
    Shape,
    Shapes,
    Traffic,
    in_layouts,
    is_nested,
)
from fastgan_kernels import reference
from fastgan_kernels.ops.spectral.weight_group import matrix_shape

BESIDE = ((32, 3, 3, 3), (64, 1, 4, 4), (1, 512))
"""Weights with short runs of columns, to be grouped with others."""


def _discriminator(*channels: int) -> tuple[Shape, ...]:
    """Weights of 4x4 convolutions between ``channels`` (from the image on), and of a linear layer to one logit."""
    return *((out, into, 4, 4) for into, out in itertools.pairwise(channels)), (1, channels[-1])


PROBLEMS = (
    Problem("sngan28_d", _discriminator(1, 64, 128, 256, 512), "SNGAN discriminator on 28 px in gray", key=True),
    Problem("dcgan64_d", _discriminator(3, 128, 256, 512, 1024), "DCGAN 64 discriminator, normalized", key=True),
)
TOY = _discriminator(1, 2, 4)


def operands(shape: Any, *, dims: Sequence[int] | None = None, **_: Any) -> Shapes:
    shapes = shape if is_nested(shape) else (shape,)
    dims = [0] * len(shapes) if dims is None else dims
    us = tuple((s[dim],) for s, dim in zip(shapes, dims, strict=True))
    vs = tuple((math.prod(s) // s[dim],) for s, dim in zip(shapes, dims, strict=True))
    return {"weights": shapes, "us": us, "vs": vs}


def longest(shape: Any) -> int:
    return max(map(math.prod, shape)) if is_nested(shape) else math.prod(shape)


def _positive(t: Operands, **_: Any) -> Operands:
    """Makes u and v positive and exact in every type, and most weights positive, so that sigma is not near 0."""

    def vector(v: Tensor, step: int) -> Tensor:
        values = 0.5 + torch.arange(len(v), device=v.device, dtype=v.dtype) * step % 11 / 16
        return values * 2.0 ** -round(math.log2(len(v)) / 2)

    return {
        "weights": [weight + 0.5 for weight in t["weights"]],
        "us": [vector(u, 3) for u in t["us"]],
        "vs": [vector(v, 7) for v in t["vs"]],
    }


def _with_sigma(function: Any) -> Any:
    """The op; with the setting ``given`` it gets the sigma that a power iteration returns."""

    def call(
        weights: list[Tensor],
        us: list[Tensor],
        vs: list[Tensor],
        *,
        given: bool = False,
        dims: Sequence[int] | None = None,
    ) -> list[Tensor]:
        sigma = reference.power_iteration(weights, us, vs, n_iterations=0, dims=dims) if given else None
        return function(weights, us, vs, sigma, dims=dims)

    return call


_GIVEN = {"given": True}
ALLOWED = {
    # 11 to 44 MB are read in 2 to 9 us, about as long as a launch; a CUDA graph, in which they are judged, hides that.
    "spectral.": "a launch reads the weights of a whole network, too few bytes to fill a large chip in whole waves",
}

OP = Op(
    name="spectral_normalize",
    operands=operands,
    arrange=_positive,
    op=_with_sigma(fastgan_kernels.spectral_normalize),
    reference=_with_sigma(reference.spectral_normalize),
    constants=("us", "vs"),
    reads={"backward": ("dy", "weights", "us", "vs"), "double_backward": ("dy", "weights", "us", "vs")},
    penalized=("weights",),
    second=("weights", "dy"),
    reduction=longest,
    highest_order=2,
    # The weights, which are parameters, and copies of u, v and sigma.
    saved=lambda t: [*t["weights"], *(4 * (sum(matrix_shape(w, 0)) + 1) for w in t["weights"])],
    problems=PROBLEMS,
    allowed=ALLOWED,
    toy=TOY,
    fixed=({}, {"given": True, "dims": (1,)}),
    choices={"given": (False, True), "dims": ((0,), (1,))},
    # One element; short runs of columns, beyond a tile of rows and beyond one of columns; a long run, beyond a chunk.
    shapes=((1, 1), (260, 2, 3, 3), (33, 64), (3, 2081)),
    # Small: the interpreter takes milliseconds per tile and launch.
    drawn=((40, 20), (9, 140), (9, 7, 5), (9, 5, 4, 4), (3, 3, 2, 2, 2)),
    empty=(),
    compiled=(
        *(Call((512, 256, 3, 3), dtype, settings=_GIVEN) for dtype in (F32, F64)),
        Call((512, 256, 3, 3), F16, settings=_GIVEN, order=0),
        # The same weights as for power_iteration.
        Call(((64, 64, 4, 4), *BESIDE), F32, settings=_GIVEN),
        Call(((64, 513, 3, 3), (32, 3, 3, 3)), BF16, settings=_GIVEN, order=1),
        Call((256, 128, 4, 4), F32, settings={**_GIVEN, "dims": (1,)}, order=1),
        Call((256, 128, 4, 4), BF16, True, settings={**_GIVEN, "dims": (1,)}, order=1),
        Call((256, 129), F32, settings={**_GIVEN, "dims": (1,)}, order=0),
        Call((2**16, 2**15 + 64), BF16, order=1),
    ),
    traffic=(
        # W is read twice, since sigma comes first, as is dy in backward. Apart: each program reads its line of the
        # tables, u and v of its tiles, and the partial sums of its layer, all from cache.
        Traffic(1.51, 1.35, in_layouts([(256, 128, 3, 3)], [(256, 64, 4, 4)], F32), apart=0.12),
        Traffic(1.51, 1.35, (Call((512, 1024), BF16),), apart=0.12),
        # Rows that start inside a sector.
        Traffic(1.6, 1.42, (Call((260, 1031), F32),), apart=0.12),
    ),
)
