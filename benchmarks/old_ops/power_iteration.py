"""One power iteration of every layer of a discriminator; it changes u and v in place."""

from torch import Tensor

import fastgan_kernels
from benchmarks.old_ops import weights
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _fused(*operands: Tensor) -> list[Tensor]:
    ws, us, vs = weights.split(operands)
    return [fastgan_kernels.power_iteration(ws, us, vs), *us, *vs]


def _reference(*operands: Tensor) -> list[Tensor]:
    ws, us, vs = weights.split(operands)
    return [reference.power_iteration(ws, us, vs), *us, *vs]


def _work(shape: Shape, pass_: Pass) -> Work:
    shapes = weights.weight_shapes(shape)
    w, vectors = sum(map(elements, shapes)), sum(map(sum, weights.operand_shapes(shape)[weights.LAYERS :]))
    # W, u, v -> sigma, u, v: W v and W^T u, then u^T W v.
    return Work(reads=w + vectors, writes=vectors + len(shapes), operations=6 * w, reduction=max(map(elements, shapes)))


OP = Op(
    name="power_iteration",
    problems=weights.PROBLEMS,
    toy_problems=weights.TOY_PROBLEMS,
    edges=weights.EDGES,
    operand_shapes=weights.operand_shapes,
    reference=_reference,
    fused=_fused,
    work=_work,
    passes=("forward",),
    constants=tuple(range(3 * weights.LAYERS)),
    # Standard normal v: an iteration that did nothing would be seen.
)
