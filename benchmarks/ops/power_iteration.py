"""One power iteration of every layer of a discriminator; it changes u and v in place."""

from typing import Any

from torch import Tensor

import fastgan_kernels
from benchmarks.op import BF16, F16, F32, F64, Call, Op
from benchmarks.ops.spectral_normalize import ALLOWED, BESIDE, PROBLEMS, TOY, longest, operands
from fastgan_kernels import reference


def _with_vectors(function: Any) -> Any:
    def call(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], **settings: Any) -> list[Tensor]:
        return [function(weights, us, vs, **settings), *us, *vs]

    return call


OP = Op(
    name="power_iteration",
    operands=operands,
    # u and v stay standard normal, not of unit length, so an iteration that does nothing is noticed.
    constants=("weights", "us", "vs"),
    op=_with_vectors(fastgan_kernels.power_iteration),
    reference=_with_vectors(reference.power_iteration),
    passes=("forward",),
    reduction=longest,
    problems=PROBLEMS,
    allowed=ALLOWED,
    toy=TOY,
    compiled=(
        *(Call((512, 256, 3, 3), F32, settings={"n_iterations": n}) for n in (0, 2)),
        *(Call((512, 256, 3, 3), dtype) for dtype in (F16, F64)),
        # Short runs of columns beside long ones, aligned and not; unaligned weights; only short runs; rows that are
        # neighbors in memory.
        Call(((64, 64, 4, 4), *BESIDE), F32),
        Call(((64, 513, 3, 3), (32, 3, 3, 3)), BF16),
        Call((256, 128, 4, 4), F32, settings={"dims": (1,)}),
        Call((256, 128, 4, 4), BF16, True, settings={"dims": (1,)}),
        Call((256, 129), F32, settings={"dims": (1,)}),
        Call((2**16, 2**15 + 64), BF16),
    ),
)
