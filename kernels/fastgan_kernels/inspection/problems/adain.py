from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice, in_layouts


def run(x: Tensor, *, constant: str = "") -> None:
    # As a layer of styles gives them: two halves of one matrix.
    scale, shift = x.new_empty(x.shape[0], 2 * x.shape[1]).chunk(2, dim=1)
    operands = {"x": x, "scale": scale, "shift": shift}
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name not in constant.split("+")]
    differentiate_twice(fastgan_kernels.adain(x, scale, shift), inputs)


PROBLEMS = [
    # Planes that share a block, that fill one, that stay in registers, that are read twice, that are cut in spans.
    *in_layouts(
        "adain",
        [
            (64, 512, 4, 4),
            (64, 64, 7, 7),
            (64, 128, 28, 28),
            (16, 128, 64, 64),
            (8, 64, 101, 103),
            (8, 64, 128, 128),
            (8, 32, 256, 256),
            (2, 16, 1024, 1024),
        ],
        [(64, 512, 4, 4), (16, 513, 8, 8), (16, 256, 32, 32), (16, 3, 64, 64), (8, 64, 128, 128)],
        F32,
        BF16,
    ),
    *in_layouts("adain", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
    Problem("adain", (2**11, 2**10, 32, 33), BF16),
    Problem("adain", (2**17, 2**15, 1, 1), BF16),
    *in_layouts("adain", [(16, 256, 32, 32)], [(16, 256, 32, 32)], F16, F64),
    Problem("adain", (8, 64, 128, 128), F64),
    *(
        Problem("adain", shape, F32, settings={"constant": constant})
        for shape in ((16, 128, 64, 64), (2, 16, 1024, 1024))
        for constant in ("x", "scale", "scale+shift")
    ),
]
