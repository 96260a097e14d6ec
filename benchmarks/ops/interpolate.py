"""The points between real and generated images where WGAN-GP penalizes a critic."""

from typing import Any

import torch
from torch import Tensor

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Traffic, in_layouts
from benchmarks.ops.gradient_norms import PROBLEMS, elements_of_a_sample


def _shares(t: Operands, **_: Any) -> Operands:
    # alpha from a little below 0 to a little above 1.
    return {**t, "alpha": 0.5 + t["alpha"].tanh() * 0.6}


def _lerp(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(fake, real, alpha)


OP = Op(
    name="interpolate",
    operands=lambda shape, **_: {"real": shape, "fake": shape, "alpha": (*shape[:1], *(1,) * (len(shape) - 1))},
    arrange=_shares,
    data=("alpha",),
    reads={"backward": ("dy", "alpha"), "double_backward": ("alpha",)},
    penalized=("real", "fake"),
    second=("dy",),
    reduction=elements_of_a_sample,
    saved=lambda t: [t["real"], t["fake"], t["alpha"]],
    problems=PROBLEMS,
    torch_functions={"lerp": _lerp},
    # One element; short rows that share a tile; rows just below and just above a tile's width; several tiles per row.
    shapes=((1, 1), (700, 3, 2), (3, 1, 1023), (5, 5, 205), (2, 3, 47, 31)),
    compiled=(
        # Odd rows that share a tile; longer rows.
        Call((512, 1, 7, 7), F32),
        *(Call((64, 3, 64, 64), dtype) for dtype in (F16, F64)),
        *(Call((64, 3, 64, 64), F32, constant=constant) for constant in (("alpha",), ("real", "fake"))),
        # More than 2^31 elements, in long rows and in many rows.
        Call((16, 3, 8192, 8192), F32),
        Call((2**22, 3, 16, 16), BF16),
    ),
    traffic=(
        Traffic(1.02, 1.02, in_layouts([(128, 3, 32, 32)], [(4, 3, 256, 256)], F32), apart=0.0),
        Traffic(1.02, 1.02, in_layouts([(64, 1, 101, 103)], [(64, 3, 64, 64)], BF16), apart=0.0),
    ),
)
