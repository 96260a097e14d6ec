"""The norms of a critic's gradients in its input, one a sample: what penalties are made of."""

import torch
from torch import Tensor

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference

# Gradients in images, so their sizes are those of batches of images.
PROBLEMS = (
    Problem("stylegan_d_1024", (16, 3, 1024, 1024), "R1 of the StyleGAN discriminator at 1024 px, batch 16", key=True),
    Problem("dcgan64_d", (128, 3, 64, 64), "WGAN-GP of the DCGAN 64 discriminator, batch 128", key=True),
    Problem("wgan_gp_28", (64, 1, 28, 28), "WGAN-GP critic on 28 px, batch 64", key=True),
    Problem("stylegan_d_256", (16, 3, 256, 256), "R1 of the StyleGAN discriminator at 256 px, batch 16"),
)
TOY_PROBLEMS = (
    Problem("toy_4", (2, 4, 4, 4), "none: a size for a CPU", key=True),
    Problem("toy_odd", (2, 3, 3, 3), "none: a size for a CPU"),
)


def _vector_norm(gradients: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradients.float(), dim=(1, 2, 3))


def _work(shape: Shape, pass_: Pass) -> Work:
    x, samples = elements(shape), shape[0]
    row = x // samples
    match pass_:
        case "forward":  # the gradients -> norms: a product and a sum
            return Work(reads=x, writes=samples, operations=2 * x, reduction=row)
        case "backward":  # dy, the gradients, norms -> their gradient: a product
            return Work(reads=x + 2 * samples, writes=x, operations=x)
        case "double_backward":  # h, dy, the gradients, norms -> gradients of the gradients and of dy
            return Work(reads=2 * x + 2 * samples, writes=x + samples, operations=5 * x, reduction=row)


OP = Op(
    name="gradient_norms",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape,),
    reference=reference.gradient_norms,
    fused=fastgan_kernels.gradient_norms,
    vendors={"vector_norm": _vector_norm},
    work=_work,
    penalised=(0,),
    second_order=(0, 1),
)
