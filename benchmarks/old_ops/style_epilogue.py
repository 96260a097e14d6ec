"""What follows each convolution of a StyleGAN block: noise, bias, leaky ReLU and AdaIN, in the paper's order."""

from torch import Tensor
from torch.nn import functional as F

import fastgan_kernels
from benchmarks.old_ops.adain import PROBLEMS, TOY_PROBLEMS, batch_norm
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _fused(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    return fastgan_kernels.style_epilogue(x, scale, shift, noise=noise, strength=strength, bias=bias)


def _reference(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    return reference.style_epilogue(x, scale, shift, noise=noise, strength=strength, bias=bias)


def _in_its_type(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
    y = x + strength[:, None, None] * noise + bias[:, None, None]
    return batch_norm(F.leaky_relu(y, 0.2), scale, shift)


def _on_a_grid(operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Rounds what is added before the activation to sixteenths: in every type the sums are exact, and never zero."""
    x, scale, shift, noise, strength, bias = operands
    x, noise = (t.mul(4).round().div(4) for t in (x, noise))
    bias = bias.mul(8).floor().div(8) + 1 / 16
    return x, scale, shift, noise, strength.sign() / 2, bias


def _work(shape: Shape, pass_: Pass) -> Work:
    x, planes, channels = elements(shape), shape[0] * shape[1], shape[1]
    pixels = x // planes
    noise = x // channels
    match pass_:
        case "forward":  # x, scale, shift, noise, strength, bias -> y: AdaIN's seven, and five before it
            reads = x + 2 * planes + noise + 2 * channels
            return Work(reads=reads, writes=x, operations=12 * x, reduction=pixels)
        case _:  # dy and the operands but the shift -> gradients of x, scale, shift, strength, bias
            reads = 2 * x + planes + noise + 2 * channels
            writes = x + 2 * planes + 2 * channels
            return Work(reads=reads, writes=writes, operations=22 * x, reduction=shape[0] * pixels)


OP = Op(
    name="style_epilogue",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape, shape[:2], shape[:2], (shape[0], 1, *shape[2:]), shape[1:2], shape[1:2]),
    reference=_reference,
    fused=_fused,
    vendors={"in_its_type": _in_its_type},
    # Forward: product, two sums, activation, normalisation; backward as many again, with four sums more.
    vendor_roundings=14,
    work=_work,
    # Penalties do not differentiate through the generator: its second order is composed, and not measured.
    passes=("forward", "backward"),
    constants=(3,),
    arrange=_on_a_grid,
)
