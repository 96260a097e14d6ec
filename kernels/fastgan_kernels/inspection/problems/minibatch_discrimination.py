import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice


def run(m: Tensor, *, constant: str = "") -> None:
    m.requires_grad_()
    o = fastgan_kernels.minibatch_discrimination(m)
    if constant != "g":
        differentiate_twice(o, [m])
        return
    (dm,) = torch.autograd.grad(o, m, torch.empty_like(o), create_graph=True)
    torch.autograd.grad(dm, m, torch.empty_like(dm))


_NAME = "minibatch_discrimination"
PROBLEMS = [
    # The paper's 100 kernels of 5 components; rows that allow 16 bytes; components over all threads; chunks of them.
    Problem(_NAME, (128, 100, 5), F32),
    *(Problem(_NAME, (256, 128, 16), dtype) for dtype in (F32, BF16, F16, F64)),
    Problem(_NAME, (64, 8, 256), F32),
    Problem(_NAME, (16, 4, 4100), F32),
    # More than 2^31 elements, and of the output too.
    Problem(_NAME, (256, 2**20, 16), F32),
    Problem(_NAME, (2**11, 2**21, 5), BF16),
    Problem(_NAME, (256, 128, 16), F32, settings={"constant": "g"}),
]
