"""A short list of kernel calls for a memory checker: every op and pass, past each kind of tile edge, both layouts.

Run it as ``compute-sanitizer --tool memcheck python -m benchmarks.sanitized`` with PYTORCH_NO_CUDA_MEMORY_CACHING=1:
inside the blocks of a caching allocator no access is out of bounds.
"""

from dataclasses import replace

from benchmarks.devices import device
from benchmarks.ops import OPS
from benchmarks.passes import bind, draw
from benchmarks.registry import Problem, cases
from fastgan_kernels import use_backend

# Less than a tile; odd rows over several tiles; rows of more than 64K elements.
SHAPES = ((3, 5, 3, 3), (2, 3, 65, 67), (1, 2, 259, 257))


def main() -> None:
    where = device()
    # Triton's interpreter shows that the calls are right; it takes the small one.
    shapes = SHAPES[:1] if where.kind == "cpu" else SHAPES
    problems = tuple(Problem("x".join(map(str, shape)), shape, "none: an edge") for shape in shapes)
    calls = 0
    with use_backend("triton"):
        for case in cases(replace(op, problems=problems) for op in OPS):
            if case.dtype_name != "float16" and case.pass_ != "forward":  # which the backward passes run first
                bind(case.op.fused, case.op, case.pass_, draw(case, where.torch_device))()
                calls += 1
    where.synchronize()
    print(f"{calls} calls finished")


if __name__ == "__main__":
    main()
