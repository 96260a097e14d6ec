"""``python -m benchmarks.counted``: bytes that passes of ops move, counted in Triton's interpreter.

A process of its own: Triton is interpreted everywhere in a process or nowhere. Reads ``[[op, shape, pass], ...]`` as
JSON and writes ``[[loaded, stored], ...]``, for float32, contiguous.
"""

import json
import sys

import torch

from benchmarks.old_ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.registry import Case, Problem
from fastgan_kernels import use_backend
from fastgan_kernels.inspection.traffic import Traffic, count_traffic

# These pass a window over their input, whose repeats the first level of cache serves.
_WINDOWED = ("upfirdn2d",)


def count(case: Case) -> Traffic:
    """What one call moves, of this case's op on the CPU.

    Raises:
        RuntimeError: where Triton is not interpreted.
    """
    with use_backend("triton"):
        operands = draw(case, torch.device("cpu"))
        bind(case.op.reference, case.op, "forward", operands)()  # which makes what is kept between calls, like a filter
        call = bind(case.op.fused, case.op, case.pass_, operands)
        with count_traffic("program" if case.op.name in _WINDOWED else "access") as traffic:
            call()
    return traffic


def main() -> None:
    ops = {op.name: op for op in OPS}
    torch.manual_seed(0)
    counted = []
    for name, shape, pass_ in json.load(sys.stdin):
        traffic = count(Case(ops[name], Problem("counted", tuple(shape), ""), "float32", "contiguous", pass_))
        counted.append((traffic.loaded, traffic.stored))
    json.dump(counted, sys.stdout)


if __name__ == "__main__":
    main()
