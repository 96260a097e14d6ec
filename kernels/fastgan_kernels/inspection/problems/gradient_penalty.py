from typing import Any

from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F32, F64, Problem, differentiate_twice


def run(x: Tensor, **settings: Any) -> None:
    x.requires_grad_()
    differentiate_twice(fastgan_kernels.gradient_penalty(x, **settings), [x])


# Its sums over rows are those of gradient_norms.
PROBLEMS = [
    Problem("gradient_penalty", (64, 3, 64, 64), F32),
    Problem("gradient_penalty", (64, 3, 64, 64), BF16, True),
    Problem("gradient_penalty", (16, 3, 256, 256), F64),
    *(
        Problem("gradient_penalty", (16, 3, 256, 256), F32, settings=settings)
        for settings in ({}, {"one_sided": True}, {"target": 0.0})
    ),
    Problem("gradient_penalty", (16, 3, 8192, 8192), F32),
    Problem("gradient_penalty", (2**22, 3, 16, 16), F32),
]
