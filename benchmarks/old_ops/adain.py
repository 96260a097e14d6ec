"""AdaIN after every convolution of the StyleGAN generator, and of style transfer networks."""

from torch import Tensor
from torch.nn import functional as F

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference


def batch_norm(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    # Instance normalisation is batch normalisation of one sample with N * C channels; the style is its affine part.
    planes = x.reshape(1, -1, *x.shape[2:])
    y = F.batch_norm(planes, None, None, scale.reshape(-1), shift.reshape(-1), training=True, eps=1e-5)
    return y.reshape(x.shape)


def _work(shape: Shape, pass_: Pass) -> Work:
    x, planes = elements(shape), shape[0] * shape[1]
    pixels = x // planes
    match pass_:
        case "forward":  # x, scale, shift -> y: two sums of two operations, a difference, a product and a sum
            return Work(reads=x + 2 * planes, writes=x, operations=7 * x, reduction=pixels)
        case "backward":  # dy, x, scale -> dx, dscale, dshift
            return Work(reads=2 * x + planes, writes=x + 2 * planes, operations=12 * x, reduction=pixels)
        case "double_backward":  # dy, x, scale and h towards dx, dscale, dshift -> gradients of x, scale and dy
            return Work(reads=3 * x + 3 * planes, writes=2 * x + planes, operations=24 * x, reduction=pixels)


PROBLEMS = (
    Problem("stylegan_g_1024", (4, 16, 1024, 1024), "StyleGAN generator at 1024 px, four samples a GPU", key=True),
    Problem("stylegan_g_128", (4, 128, 128, 128), "StyleGAN generator at 128 px, four samples a GPU", key=True),
    Problem("stylegan_g_32", (8, 512, 32, 32), "StyleGAN generator at 32 px, eight samples a GPU", key=True),
    Problem("stylegan_g_256", (4, 64, 256, 256), "StyleGAN generator at 256 px, four samples a GPU"),
    Problem("stylegan_g_512", (4, 32, 512, 512), "StyleGAN generator at 512 px, four samples a GPU"),
    Problem("stylegan_g_64", (4, 256, 64, 64), "StyleGAN generator at 64 px, four samples a GPU"),
    Problem("stylegan_g_16", (16, 512, 16, 16), "StyleGAN generator at 16 px, sixteen samples a GPU"),
    Problem("stylegan_g_8", (32, 512, 8, 8), "StyleGAN generator at 8 px, thirty-two samples a GPU"),
)
TOY_PROBLEMS = (
    Problem("toy_4", (2, 4, 4, 4), "none: a size for a CPU", key=True),
    Problem("toy_odd", (2, 3, 3, 3), "none: a size for a CPU"),
)

OP = Op(
    name="adain",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape, shape[:2], shape[:2]),
    reference=reference.adain,
    fused=fastgan_kernels.adain,
    vendors={"batch_norm": batch_norm},
    work=_work,
    penalised=(0, 1, 2),
    # y is linear in the shift, and no first gradient depends on it.
    second_order=(0, 1, 3),
)
