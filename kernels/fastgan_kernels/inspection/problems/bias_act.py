from typing import Any

from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice, in_layouts


def run(x: Tensor, *, bias: bool = True, constant: str = "", **settings: Any) -> None:
    operands = {"x": x}
    if bias:
        operands["bias"] = x.new_empty(x.shape[1])
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name != constant]
    y = fastgan_kernels.bias_act(x, operands.get("bias"), **settings)
    differentiate_twice(y, inputs)


_SHAPE = (16, 64, 32, 32)
PROBLEMS = [
    # Rows of pixels, the odd ones of 7 x 7 and 14 x 14 too; rows of channels.
    *in_layouts(
        "bias_act",
        [(64, 512, 4, 4), (64, 64, 7, 7), (64, 64, 14, 14), (64, 128, 28, 28), (1, 1, 2, 2)],
        [(16, 3, 64, 64), (64, 16, 64, 64), _SHAPE, (16, 513, 8, 8), (64, 512)],
        F32,
        BF16,
    ),
    *in_layouts("bias_act", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
    Problem("bias_act", (2**20, 2056), BF16),
    *in_layouts("bias_act", [_SHAPE], [_SHAPE], F16, F64),
    *(
        Problem("bias_act", _SHAPE, F32, settings=settings)
        for settings in (
            {"act": "linear"},
            {"act": "relu"},
            {"act": "linear", "clamp": 256.0},
            {"act": "lrelu", "gain": 2.0**0.5, "clamp": 256.0},
        )
    ),
    *(
        Problem("bias_act", _SHAPE, F32, channels_last, settings)
        for channels_last in (False, True)
        for settings in ({"bias": False}, {"constant": "x"}, {"constant": "bias"})
    ),
]
