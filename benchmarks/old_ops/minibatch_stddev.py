"""Minibatch standard deviation before the last convolution of StyleGAN's discriminators."""

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference


def _work(shape: Shape, pass_: Pass) -> Work:
    x, appended = elements(shape), elements(shape) // shape[1]
    match pass_:
        case "forward":  # x -> y: a sum, a difference, a square and its sum, and the mean of the roots
            return Work(reads=x, writes=x + appended, operations=5 * x, reduction=x)
        case "backward":  # dy, x -> dx: the statistics again, a product and a sum
            return Work(reads=2 * x + appended, writes=x, operations=6 * x, reduction=x)
        case "double_backward":  # h, x and the sums of dy -> gradients of x and dy
            return Work(reads=2 * x, writes=2 * x + appended, operations=12 * x, reduction=x)


OP = Op(
    name="minibatch_stddev",
    problems=(
        Problem("stylegan_d_4", (32, 512, 4, 4), "StyleGAN discriminator at 4 px, thirty-two samples a GPU", key=True),
        Problem("stylegan_d_4_small", (4, 512, 4, 4), "StyleGAN discriminator at 4 px, four samples a GPU", key=True),
        Problem("dcgan64_d_32", (128, 128, 32, 32), "DCGAN 64 discriminator, first layer, batch 128"),
        Problem("dcgan64_d_8", (128, 512, 8, 8), "DCGAN 64 discriminator, third layer, batch 128"),
    ),
    # Four samples: of two, the second gradient in x is nothing but epsilon, and rounding.
    toy_problems=(
        Problem("toy_4", (4, 4, 4, 4), "none: a size for a CPU", key=True),
        Problem("toy_odd", (4, 3, 3, 3), "none: a size for a CPU"),
    ),
    operand_shapes=lambda shape: (shape,),
    reference=reference.minibatch_stddev,
    fused=fastgan_kernels.minibatch_stddev,
    work=_work,
    penalised=(0,),
    second_order=(0, 1),
)
