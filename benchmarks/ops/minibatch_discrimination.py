"""Minibatch discrimination before the last layer of a discriminator."""

import math
from typing import Any

from benchmarks.op import BF16, F16, F32, F64, Call, Op, Operands, Problem, Traffic


def _without_ties(t: Operands, **_: Any) -> Operands:
    """Gives every component N different values, so that no two samples tie.

    The values are small multiples of a power of two, so exact in every type. The distance of two samples is about 2, so
    that exp(-distance) does not vanish.
    """
    n, _, components = t["m"].shape
    order = t["m"].argsort(0) - n // 2
    # On average two of n positions are n / 3 apart.
    step = 2.0 ** round(math.log2(6 / (max(n, 1) * max(components, 1))))
    return {"m": order.to(t["m"].dtype) * step}


OP = Op(
    name="minibatch_discrimination",
    operands=lambda shape, **_: {"m": shape},
    arrange=_without_ties,
    reads={"backward": ("dy", "m"), "double_backward": ("dy", "m")},
    penalized=("m",),
    second=("m", "dy"),
    reduction=lambda shape: shape[0] * shape[2],
    highest_order=2,
    saved=lambda t: [t["m"]],
    problems=(
        Problem("paper_128", (128, 100, 5), "100 kernels of 5 components (Salimans et al. 2016), batch 128", key=True),
        Problem("batch_256", (256, 128, 16), "128 kernels of 16 components, batch 256", key=True),
        Problem("batch_64", (64, 50, 5), "50 kernels of 5 components, batch 64"),
    ),
    toy=(4, 3, 4),
    # One sample; several tiles along the kernels, along both axes, along the samples; as many components as a program
    # holds, and one more.
    shapes=((1, 1, 1), (2, 3, 1), (3, 130, 1), (5, 9, 20), (9, 17, 8), (17, 1, 65), (3, 2, 2048), (2, 1, 2049)),
    # Small: the interpreter takes milliseconds per sample that passes a program.
    drawn=(((1, 9), 20, 40),),
    adapt=lambda shape: (*shape, 2)[:3],
    empty=((0, 3, 4), (2, 0, 4), (2, 3, 0)),
    compiled=(
        # Rows that allow 16 bytes; chunks of components.
        *(Call((256, 128, 16), dtype) for dtype in (F16, F64)),
        Call((16, 4, 4100), F32),
        # More than 2^31 elements, in the output too.
        Call((512, 2**22 + 2**16, 1), BF16),
        Call((256, 2**20, 16), F32),
        Call((256, 128, 16), F32, constant=("dy",)),
    ),
    traffic=(
        # Each element of m is read once in a program's own tile, and N / 16 times (here once) as a sample that passes.
        Traffic(1.95, 1.52, (Call((16, 1024, 16), F32),)),
        # With 512 components a tile holds 4 samples, so samples pass 8 / 4 times.
        Traffic(3.0, 2.0, (Call((8, 64, 512), F32),)),
    ),
)
