"""Bias and leaky ReLU after every convolution of the discriminators."""

from torch import Tensor
from torch.nn import functional as F

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference


def _leaky_relu(x: Tensor, bias: Tensor) -> Tensor:
    return F.leaky_relu(x + bias.view(-1, *(1,) * (x.dim() - 2)), 0.2)


def _work(shape: Shape, pass_: Pass) -> Work:
    x, channels = elements(shape), shape[1]
    match pass_:
        case "forward":  # x, bias -> y: an addition and a multiplication
            return Work(reads=x + channels, writes=x, operations=2 * x)
        case "backward":  # dy, y -> dx, dbias: a multiplication and an addition
            return Work(reads=2 * x, writes=x + channels, operations=2 * x, reduction=x // channels)
        case "double_backward":  # h (towards dx), y -> ddy
            return Work(reads=2 * x, writes=x, operations=x)


OP = Op(
    name="bias_act",
    problems=(
        Problem(
            "stylegan_d_1024", (4, 16, 1024, 1024), "StyleGAN discriminator at 1024 px, four samples a GPU", key=True
        ),
        Problem("dcgan64_d_32", (128, 128, 32, 32), "DCGAN 64 discriminator, first layer, batch 128", key=True),
        Problem("sngan28_d_14", (64, 64, 14, 14), "SNGAN discriminator on 28 px, first layer, batch 64", key=True),
        Problem("stylegan_d_256", (4, 64, 256, 256), "StyleGAN discriminator at 256 px, four samples a GPU"),
        Problem("stylegan_d_64", (4, 256, 64, 64), "StyleGAN discriminator at 64 px, four samples a GPU"),
        Problem("dcgan64_d_8", (128, 512, 8, 8), "DCGAN 64 discriminator, third layer, batch 128"),
        Problem("sngan28_d_3", (64, 256, 3, 3), "SNGAN discriminator on 28 px, third layer, batch 64"),
        Problem("dcgan28_d_14", (64, 16, 14, 14), "DCGAN 28 discriminator, first layer, batch 64"),
    ),
    toy_problems=(
        Problem("toy_4", (2, 4, 4, 4), "none: a size for a CPU", key=True),
        Problem("toy_odd", (2, 3, 3, 3), "none: a size for a CPU"),
    ),
    operand_shapes=lambda shape: (shape, (shape[1],)),
    reference=reference.bias_act,
    fused=fastgan_kernels.bias_act,
    vendors={"leaky_relu": _leaky_relu},
    work=_work,
    # R1 and WGAN-GP use the gradient in x alone. The activation is piecewise linear: only dy gets a second gradient.
    penalised=(0,),
    second_order=(2,),
)
