"""Minibatch discrimination before the last layer of a discriminator."""

import fastgan_kernels
from benchmarks.registry import Op, Pass, Problem, Shape, Work, elements
from fastgan_kernels import reference


def _work(shape: Shape, pass_: Pass) -> Work:
    n, kernels, components = shape
    m, o, pairs = elements(shape), n * kernels, n * elements(shape)
    longest = n * components
    match pass_:
        case "forward":  # m -> o: a difference, its size and a sum for every pair and component
            return Work(reads=m, writes=o, operations=3 * pairs, reduction=longest)
        case "backward":  # g, m -> dm: the distances again, then a sign, a product and a sum
            return Work(reads=m + o, writes=m, operations=6 * pairs, reduction=longest)
        case "double_backward":  # v, g, m -> dg, dm: three operations more, for the projection on v
            return Work(reads=2 * m + o, writes=m + o, operations=9 * pairs, reduction=longest)


OP = Op(
    name="minibatch_discrimination",
    problems=(
        Problem("paper_128", (128, 100, 5), "100 kernels of 5 components (Salimans et al. 2016), batch 128", key=True),
        Problem("batch_256", (256, 128, 16), "128 kernels of 16 components, batch 256", key=True),
        Problem("batch_64", (64, 50, 5), "50 kernels of 5 components, batch 64"),
    ),
    toy_problems=(
        Problem("toy_4", (4, 3, 4), "none: a size for a CPU", key=True),
        Problem("toy_odd", (3, 5, 3), "none: a size for a CPU"),
    ),
    operand_shapes=lambda shape: (shape,),
    reference=reference.minibatch_discrimination,
    fused=fastgan_kernels.minibatch_discrimination,
    work=_work,
    penalised=(0,),
    second_order=(0, 1),
    edges=((3, 5, 3), (67, 3, 17), (130, 33, 5)),
)
