from collections.abc import Sequence

from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem
from fastgan_kernels.weight_group import matrix_shape


def run(x: Tensor, *, beside: Sequence[tuple[int, ...]] = (), dim: int = 0, n_iterations: int = 1) -> None:
    """``x`` is a weight, ``beside`` the shapes of others in its group."""
    weights = [x, *(x.new_empty(shape) for shape in beside)]
    shapes = [matrix_shape(weight, dim) for weight in weights]
    us, vs = ([x.new_empty(sizes[axis]) for sizes in shapes] for axis in (0, 1))
    fastgan_kernels.power_iteration(weights, us, vs, n_iterations=n_iterations, dims=[dim] * len(weights))


_SHAPE = (512, 256, 3, 3)
BESIDE = ((32, 3, 3, 3), (64, 1, 4, 4), (1, 512))
PROBLEMS = [
    *(Problem("power_iteration", _SHAPE, F32, settings={"n_iterations": n}) for n in (0, 2)),
    *(Problem("power_iteration", _SHAPE, dtype) for dtype in (F16, F64)),
    # Short runs beside long ones, aligned and not; none aligned; short ones alone; rows as neighbours.
    Problem("power_iteration", (64, 64, 4, 4), F32, settings={"beside": BESIDE}),
    Problem("power_iteration", (64, 513, 3, 3), BF16, settings={"beside": ((32, 3, 3, 3),)}),
    Problem("power_iteration", (256, 128, 4, 4), F32, settings={"dim": 1}),
    Problem("power_iteration", (256, 128, 4, 4), BF16, channels_last=True, settings={"dim": 1}),
    Problem("power_iteration", (256, 129), F32, settings={"dim": 1}),
    Problem("power_iteration", (2**16, 2**15 + 64), BF16),
]
