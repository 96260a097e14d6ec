"""The penalty of WGAN-GP on a critic's gradients in its input."""

import fastgan_kernels
from benchmarks.old_ops.gradient_norms import PROBLEMS, TOY_PROBLEMS
from benchmarks.registry import Op, Pass, Shape, Work, elements
from fastgan_kernels import reference


def _work(shape: Shape, pass_: Pass) -> Work:
    x, samples = elements(shape), shape[0]
    match pass_:
        case "forward":  # the gradients -> penalty: a product and a sum
            return Work(reads=x, writes=1, operations=2 * x, reduction=x)
        case "backward":  # dy, the gradients, norms -> their gradient: a product
            return Work(reads=x + samples + 1, writes=x, operations=x)
        case "double_backward":  # h, dy, the gradients, norms -> gradients of the gradients and of dy
            return Work(reads=2 * x + samples + 1, writes=x + 1, operations=5 * x, reduction=x)


OP = Op(
    name="gradient_penalty",
    problems=PROBLEMS,
    toy_problems=TOY_PROBLEMS,
    operand_shapes=lambda shape: (shape,),
    reference=reference.gradient_penalty,
    fused=fastgan_kernels.gradient_penalty,
    work=_work,
    penalised=(0,),
    second_order=(0, 1),
)
