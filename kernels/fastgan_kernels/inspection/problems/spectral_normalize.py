from collections.abc import Sequence

import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.power_iteration import BESIDE
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem
from fastgan_kernels.weight_group import matrix_shape


def run(x: Tensor, *, beside: Sequence[tuple[int, ...]] = (), dim: int = 0, given: bool = True, order: int = 2) -> None:
    """``x`` is a weight, ``beside`` the shapes of others in its group, ``given`` whether sigma is."""
    weights = [x.requires_grad_(), *(x.new_empty(shape, requires_grad=True) for shape in beside)]
    shapes = [matrix_shape(weight, dim) for weight in weights]
    us, vs = ([x.new_empty(sizes[axis]) for sizes in shapes] for axis in (0, 1))
    sigma = x.new_empty(len(weights)) if given else None
    ys = fastgan_kernels.spectral_normalize(weights, us, vs, sigma, dims=[dim] * len(weights))
    dys = [torch.empty_like(y, requires_grad=True) for y in ys]
    if order > 0:
        dws = torch.autograd.grad(ys, weights, dys, create_graph=True)
    if order > 1:
        torch.autograd.grad(dws, [*weights, *dys], [torch.empty_like(dw) for dw in dws])


PROBLEMS = [
    *(Problem("spectral_normalize", (512, 256, 3, 3), dtype) for dtype in (F32, F64)),
    Problem("spectral_normalize", (512, 256, 3, 3), F16, settings={"order": 0}),
    # As for power_iteration.
    Problem("spectral_normalize", (64, 64, 4, 4), F32, settings={"beside": BESIDE}),
    Problem("spectral_normalize", (64, 513, 3, 3), BF16, settings={"beside": ((32, 3, 3, 3),), "order": 1}),
    Problem("spectral_normalize", (256, 128, 4, 4), F32, settings={"dim": 1, "order": 1}),
    Problem("spectral_normalize", (256, 128, 4, 4), BF16, channels_last=True, settings={"dim": 1, "order": 1}),
    Problem("spectral_normalize", (256, 129), F32, settings={"dim": 1, "order": 0}),
    Problem("spectral_normalize", (2**16, 2**15 + 64), BF16, settings={"given": False, "order": 1}),
]
