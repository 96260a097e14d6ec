from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice, in_layouts


def run(x: Tensor, *, drawn: bool = True, per_channel: bool = True, constant: str = "") -> None:
    n, c, *spatial = x.shape
    operands = {"x": x, "strength": x.new_empty((c,) if per_channel else ())}
    if not drawn:
        operands["noise"] = x.new_empty(n, 1, *spatial)
    inputs = [operand.requires_grad_() for name, operand in operands.items() if name not in constant.split("+")]
    differentiate_twice(fastgan_kernels.noise_injection(x, operands["strength"], operands.get("noise")), inputs)


_WIDE, _ODD, _SMALL = (8, 16, 256, 256), (8, 3, 255, 257), (16, 64, 32, 32)
PROBLEMS = [
    # Drawn by each program where it takes all channels; for small problems drawn beforehand.
    *in_layouts("noise_injection", [_WIDE], [_WIDE], F32),
    *in_layouts("noise_injection", [_ODD], [_ODD], BF16),
    Problem("noise_injection", (64, 512, 4, 4), F32),
    *in_layouts("noise_injection", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
    Problem("noise_injection", (2**20, 2056), BF16),
    Problem("noise_injection", _WIDE, F64),
    Problem("noise_injection", _WIDE, F16, settings={"per_channel": False}),
    *(Problem("noise_injection", _SMALL, BF16, channels_last, {"drawn": False}) for channels_last in (False, True)),
    Problem("noise_injection", _SMALL, F32, settings={"drawn": False, "constant": "strength"}),
]
