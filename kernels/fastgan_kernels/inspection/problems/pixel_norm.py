from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice, in_layouts


def run(x: Tensor) -> None:
    x.requires_grad_()
    differentiate_twice(fastgan_kernels.pixel_norm(x), [x])


PROBLEMS = [
    # Several samples a tile; strips of two sectors and of one; odd planes; chunks of channels; latents.
    *in_layouts("pixel_norm", [(64, 512, 4, 4), (16, 16, 128, 128), (16, 64, 7, 7)], [(16, 512, 8, 8), (64, 512)], F32),
    *in_layouts("pixel_norm", [(16, 512, 32, 32), (16, 2048, 8, 8)], [(16, 513, 8, 8), (64, 12000)], BF16),
    *in_layouts("pixel_norm", [(2, 16, 8192, 8200)], [(2, 16, 8192, 8200)], F32),
    Problem("pixel_norm", (16, 512, 32, 32), F16),
    Problem("pixel_norm", (16, 512, 8, 8), F64, True),
    Problem("pixel_norm", (16, 512, 8, 8), F64),
]
