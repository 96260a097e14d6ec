"""The points between real and generated images where WGAN-GP penalises a critic."""

import torch
from torch import Tensor

import fastgan_kernels
from benchmarks.old_ops.gradient_norms import PROBLEMS, TOY_PROBLEMS
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _lerp(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(fake, real, alpha)


def _work(shape: Shape, pass_: Pass) -> Work:
    x, samples = elements(shape), shape[0]
    row = x // samples
    match pass_:
        case "forward":  # real, fake, alpha -> y: two products and a sum
            return Work(reads=2 * x + samples, writes=x, operations=3 * x)
        case "backward":  # dy, real, fake, alpha -> their gradients: four products, a difference and a sum
            return Work(reads=3 * x + samples, writes=2 * x + samples, operations=5 * x, reduction=row)
        case "double_backward":  # dy, alpha and h towards dreal and dfake -> gradients of alpha and dy
            return Work(reads=3 * x + samples, writes=x + samples, operations=7 * x, reduction=row)


OP = Op(
    name="interpolate",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape, shape, (shape[0], *(1,) * (len(shape) - 1))),
    reference=reference.interpolate,
    fused=fastgan_kernels.interpolate,
    vendors={"lerp": _lerp},
    work=_work,
    penalised=(0, 1),
    second_order=(2, 3),
)
