"""A list of kernel calls for a memory checker: every op and pass, past each kind of tile edge, both layouts.

Run it as ``compute-sanitizer --tool memcheck python -m benchmarks.sanitized`` with PYTORCH_NO_CUDA_MEMORY_CACHING=1:
inside the blocks of a caching allocator no access is out of bounds.
"""

import argparse
import math
import time
from dataclasses import replace

from benchmarks.devices import device
from benchmarks.old_ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.registry import Problem, Shape, cases
from fastgan_kernels import use_backend


def _problems(edges: tuple[Shape, ...]) -> tuple[Problem, ...]:
    return tuple(Problem("x".join(map(str, shape)), shape, "none: an edge") for shape in edges)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitized", description=__doc__)
    parser.add_argument("--until", type=float, default=math.inf, help="begin no call after this, in seconds since 1970")
    until = parser.parse_args().until
    where = device()
    # Triton's interpreter shows that the calls are right; it takes the smallest.
    smallest = where.kind == "cpu"
    listed = [
        case
        for case in cases(replace(op, problems=_problems(op.edges[:1] if smallest else op.edges)) for op in OPS)
        # A backward pass runs the forward pass first.
        if case.dtype_name != "float16" and (case.pass_ != "forward" or "backward" not in case.op.passes)
    ]
    finished = 0
    with use_backend("triton"):
        for case in listed:
            if time.time() > until:
                break
            bind(case.op.fused, case.op, case.pass_, draw(case, where.torch_device))()
            finished += 1
    where.synchronize()
    print(f"{finished} of {len(listed)} calls finished")


if __name__ == "__main__":
    main()
