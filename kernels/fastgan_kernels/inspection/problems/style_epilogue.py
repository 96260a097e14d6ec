from typing import Any

from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice


def run(x: Tensor, *, drawn: bool = True, bias: bool = True, constant: str = "", **settings: Any) -> None:
    n, c, *spatial = x.shape
    scale, shift = x.new_empty(n, 2 * c).chunk(2, dim=1)
    operands = {"scale": scale, "shift": shift, "strength": x.new_empty(c)}
    if not drawn:
        operands["noise"] = x.new_empty(n, 1, *spatial)
    if bias:
        operands["bias"] = x.new_empty(c)
    inputs = [operand.requires_grad_() for name, operand in {"x": x, **operands}.items() if name not in constant]
    differentiate_twice(fastgan_kernels.style_epilogue(x, **operands, **settings), inputs)


_REGISTERS, _LOOP, _SPANS = (16, 128, 64, 64), (8, 32, 256, 256), (2, 16, 1024, 1024)
PROBLEMS = [
    # What adain does not meet: noise, bias and activation before the normalisation, in every regime; and after it.
    *(Problem("style_epilogue", shape, F32) for shape in ((64, 512, 4, 4), _REGISTERS, _LOOP, _SPANS)),
    *(Problem("style_epilogue", shape, BF16) for shape in ((8, 64, 101, 103), (8, 64, 128, 128))),
    *(Problem("style_epilogue", shape, F32, True) for shape in ((16, 256, 32, 32), (8, 64, 128, 128))),
    Problem("style_epilogue", (16, 513, 8, 8), BF16, True),
    Problem("style_epilogue", (8, 64, 128, 128), F64),
    Problem("style_epilogue", (2, 16, 8192, 8200), BF16),
    *(
        Problem("style_epilogue", (8, 64, 128, 128), F16, channels_last, {"order": "tutorial", "drawn": False})
        for channels_last in (False, True)
    ),
    Problem("style_epilogue", _SPANS, F32, settings={"act": "relu", "constant": "x+noise", "drawn": False}),
]
