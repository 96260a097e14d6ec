"""Noise after every convolution of the StyleGAN generator: one value for each sample and pixel, given."""

from torch import Tensor

import fastgan_kernels
from benchmarks.old_ops.adain import PROBLEMS, TOY_PROBLEMS
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _in_its_type(x: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    return x + strength[:, None, None] * noise


def _work(shape: Shape, pass_: Pass) -> Work:
    x, channels, pixels = elements(shape), shape[1], elements(shape) // shape[1]
    match pass_:
        case "forward":  # x, strength, noise -> y: a product and a sum
            return Work(reads=x + channels + pixels, writes=x, operations=2 * x)
        case _:  # dy, noise -> dstrength; dx is dy itself and is not written, but returned
            return Work(reads=x + pixels, writes=channels, operations=2 * x, reduction=pixels)


OP = Op(
    name="noise_injection",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape, shape[1:2], (shape[0], 1, *shape[2:])),
    reference=reference.noise_injection,
    fused=fastgan_kernels.noise_injection,
    vendors={"in_its_type": _in_its_type},
    work=_work,
    # Penalties do not differentiate through the generator: its second order is composed, and not measured.
    passes=("forward", "backward"),
    constants=(2,),
)
