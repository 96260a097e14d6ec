"""The problems at which every op is inspected: one module an op, run on torch's meta device.

PROBLEMS makes the table. Each op meets: both layouts in float32 and bfloat16 at every length of row that its tiling
treats differently, aligned and not; the other two types; each optional operand and setting; more than 2^31 elements.
SWEEP, for a slow test of the rules alone, is the cross product of the shapes with both layouts and all types.
"""

from importlib import import_module

from fastgan_kernels.backend import op_names
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem

PROBLEMS: list[Problem] = [problem for name in op_names() for problem in import_module(f"{__name__}.{name}").PROBLEMS]

SWEEP: list[Problem] = [
    Problem(op, shape, dtype, channels_last)
    for op, shape in dict.fromkeys((problem.op, problem.shape) for problem in PROBLEMS)
    for dtype in (F16, BF16, F32, F64)
    for channels_last in (False, True)
]

__all__ = ["PROBLEMS", "SWEEP", "Problem"]
