"""Pixel normalisation of StyleGAN's latents, and after the convolutions of a progressively grown generator."""

from torch import Tensor
from torch.nn import functional as F

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference


def _rms_norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.movedim(1, -1), (x.shape[1],), eps=1e-8).movedim(-1, 1)


def _work(shape: Shape, pass_: Pass) -> Work:
    x, channels = elements(shape), shape[1]
    match pass_:
        case "forward":  # x -> y: a square and its sum, a product
            return Work(reads=x, writes=x, operations=3 * x, reduction=channels)
        case "backward":  # dy, x -> dx: two sums of two operations, three products and a difference
            return Work(reads=2 * x, writes=x, operations=8 * x, reduction=channels)
        case "double_backward":  # h, dy, x -> gradients of x and dy
            return Work(reads=3 * x, writes=2 * x, operations=18 * x, reduction=channels)


OP = Op(
    name="pixel_norm",
    problems=(
        Problem("pggan_g_128", (16, 256, 128, 128), "progressively grown generator at 128 px, batch 16", key=True),
        Problem("pggan_g_16", (16, 512, 16, 16), "progressively grown generator at 16 px, batch 16", key=True),
        Problem("pggan_g_1024", (4, 16, 1024, 1024), "progressively grown generator at 1024 px, four samples a GPU"),
        Problem("stylegan_z", (64, 512, 1, 1), "latents of StyleGAN's mapping network, batch 64"),
    ),
    toy_problems=(
        Problem("toy_4", (2, 4, 4, 4), "none: a size for a CPU", key=True),
        Problem("toy_odd", (2, 3, 3, 3), "none: a size for a CPU"),
    ),
    operand_shapes=lambda shape: (shape,),
    reference=reference.pixel_norm,
    fused=fastgan_kernels.pixel_norm,
    vendors={"rms_norm": _rms_norm},
    work=_work,
    penalised=(0,),
    second_order=(0, 1),
)
