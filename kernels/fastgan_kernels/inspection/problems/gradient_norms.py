from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice


def run(x: Tensor) -> None:
    x.requires_grad_()
    differentiate_twice(fastgan_kernels.gradient_norms(x), [x])


PROBLEMS = [
    # Rows that share a block, of an odd length; whole rows; rows in spans.
    Problem("gradient_norms", (512, 1, 7, 7), F32),
    Problem("gradient_norms", (64, 3, 64, 64), F32, True),
    Problem("gradient_norms", (64, 3, 64, 64), F16),
    Problem("gradient_norms", (16, 3, 257, 255), BF16),
    Problem("gradient_norms", (16, 3, 256, 256), F64),
    # More than 2^31 elements: long rows, many rows.
    Problem("gradient_norms", (16, 3, 8192, 8192), F32),
    Problem("gradient_norms", (2**22, 3, 16, 16), F32),
]
