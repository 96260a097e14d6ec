import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice


def run(x: Tensor, *, constant: str = "") -> None:
    operands = {"real": x, "fake": torch.empty_like(x), "alpha": x.new_empty(len(x), *(1,) * (x.dim() - 1))}
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name not in constant.split("+")]
    differentiate_twice(fastgan_kernels.interpolate(*operands.values()), inputs)


PROBLEMS = [
    # Odd rows that share a tile, and longer ones.
    Problem("interpolate", (512, 1, 7, 7), F32),
    Problem("interpolate", (64, 3, 64, 64), F32, True),
    *(Problem("interpolate", (64, 3, 64, 64), dtype) for dtype in (F16, BF16, F64)),
    *(Problem("interpolate", (64, 3, 64, 64), F32, settings={"constant": c}) for c in ("alpha", "real+fake")),
    # More than 2^31 elements: long rows, many rows.
    Problem("interpolate", (16, 3, 8192, 8192), F32),
    Problem("interpolate", (2**22, 3, 16, 16), BF16),
]
