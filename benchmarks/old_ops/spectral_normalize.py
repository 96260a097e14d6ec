"""The normalised weights of a discriminator, all at once."""

from collections.abc import Sequence

from torch import Tensor

import fastgan_kernels
from benchmarks.old_ops import weights
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _fused(*operands: Tensor) -> Sequence[Tensor]:
    return fastgan_kernels.spectral_normalize(*weights.split(operands))


def _reference(*operands: Tensor) -> Sequence[Tensor]:
    return reference.spectral_normalize(*weights.split(operands))


def _work(shape: Shape, pass_: Pass) -> Work:
    shapes = weights.weight_shapes(shape)
    w, vectors, longest = (
        sum(map(elements, shapes)),
        sum(map(sum, weights.operand_shapes(shape)[5:])),
        max(map(elements, shapes)),
    )
    match pass_:
        case "forward":  # W, u, v -> W / sigma
            return Work(reads=w + vectors, writes=w, operations=3 * w, reduction=longest)
        case "backward":  # dy, W, u, v -> dW: a product with W summed, and one with u v^T
            return Work(reads=2 * w + vectors, writes=w, operations=5 * w, reduction=longest)
        case "double_backward":  # h, dy, W, u, v -> gradients of W and dy
            return Work(reads=3 * w + vectors, writes=2 * w, operations=12 * w, reduction=longest)


_N = weights.LAYERS

OP = Op(
    name="spectral_normalize",
    problems=weights.PROBLEMS,
    toy_problems=weights.TOY_PROBLEMS,
    edges=weights.EDGES,
    operand_shapes=weights.operand_shapes,
    reference=_reference,
    fused=_fused,
    work=_work,
    penalised=tuple(range(_N)),
    second_order=(*range(_N), *range(3 * _N, 4 * _N)),
    constants=tuple(range(_N, 3 * _N)),
    arrange=weights.with_singular_vectors,
)
