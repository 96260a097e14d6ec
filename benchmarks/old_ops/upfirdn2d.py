"""The blur of StyleGAN's networks, around every change of resolution."""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference

_TAPS = (1.0, 3.0, 3.0, 1.0)


@functools.cache
def _kernel(device: torch.device) -> Tensor:
    taps = torch.tensor(_TAPS, device=device) / sum(_TAPS)
    return torch.outer(taps, taps)


def _fused(x: Tensor) -> Tensor:
    return fastgan_kernels.upfirdn2d(x, _kernel(x.device), padding=[2, 1, 2, 1])


def _reference(x: Tensor) -> Tensor:
    return reference.upfirdn2d(x, _kernel(x.device), padding=[2, 1, 2, 1])


def _depthwise(x: Tensor) -> Tensor:
    window = _kernel(x.device).to(x.dtype).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [2, 1, 2, 1]), window, groups=x.shape[1])


def _work(shape: Shape, pass_: Pass) -> Work:
    x, taps = elements(shape), len(_TAPS) ** 2
    # Every pass filters one image: x -> y, dy -> dx, h (towards dx) -> gradient of dy.
    return Work(reads=x, writes=x, operations=2 * taps * x, reduction=taps)


OP = Op(
    name="upfirdn2d",
    problems=(
        Problem("stylegan_g_1024", (4, 16, 1024, 1024), "StyleGAN generator at 1024 px, four samples a GPU", key=True),
        Problem("stylegan_d_256", (4, 64, 256, 256), "StyleGAN discriminator at 256 px, four samples a GPU", key=True),
        Problem("stylegan_d_32", (8, 512, 32, 32), "StyleGAN discriminator at 32 px, eight samples a GPU", key=True),
        Problem("stylegan_d_64", (4, 256, 64, 64), "StyleGAN discriminator at 64 px, four samples a GPU"),
        Problem("stylegan_d_8", (32, 512, 8, 8), "StyleGAN discriminator at 8 px, thirty-two samples a GPU"),
    ),
    toy_problems=(
        Problem("toy_4", (2, 4, 4, 4), "none: a size for a CPU", key=True),
        Problem("toy_odd", (2, 3, 3, 3), "none: a size for a CPU"),
    ),
    operand_shapes=lambda shape: (shape,),
    reference=_reference,
    fused=_fused,
    vendors={"depthwise_convolution": _depthwise},
    work=_work,
    penalised=(0,),
    # The filter is linear: only dy gets a second gradient.
    second_order=(1,),
)
