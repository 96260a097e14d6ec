import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem


def run(x: Tensor, *, constant: bool = False, **settings: int) -> None:
    y = fastgan_kernels.minibatch_stddev(x.requires_grad_(), **settings)
    dy = torch.empty_like(y, requires_grad=not constant)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    torch.autograd.grad(dx, x, torch.empty_like(dx))


PROBLEMS = [
    # The last layers of StyleGAN's discriminator; odd rows; more than 2^31 elements; more members than a program holds.
    # Few: each has five kernels of its own.
    Problem("minibatch_stddev", (32, 512, 4, 4), F32),
    Problem("minibatch_stddev", (32, 512, 4, 4), BF16, True),
    Problem("minibatch_stddev", (32, 64, 7, 7), F16, settings={"num_channels": 2}),
    Problem("minibatch_stddev", (4, 32, 8192, 8200), BF16),
    Problem("minibatch_stddev", (4, 32, 8192, 8200), F32, True),
    Problem("minibatch_stddev", (512, 64), F64, settings={"group_size": 512}),
    Problem("minibatch_stddev", (32, 512, 4, 4), F32, settings={"constant": True}),
]
