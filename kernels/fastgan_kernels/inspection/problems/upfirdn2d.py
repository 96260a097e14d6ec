from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastgan_kernels
from fastgan_kernels.inspection.problems.problem import BF16, F16, F32, F64, Problem, differentiate_twice


def run(
    x: Tensor, *, taps: Sequence[int] = (4, 4), padding: int | Sequence[int] = (2, 1, 2, 1), **settings: Any
) -> None:
    kernel = torch.empty(taps, device=x.device)
    y = fastgan_kernels.upfirdn2d(x.requires_grad_(), kernel, padding=padding, **settings)
    differentiate_twice(y, [x])


def _problem(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False, **settings: Any) -> Problem:
    return Problem("upfirdn2d", shape, dtype, channels_last, settings)


_SHAPE = (16, 64, 64, 64)
PROBLEMS = [
    # Few: a kernel of ours is long, and takes the compiler longer than those of other ops.
    # Blurs of StyleGAN 1 and 2, before a strided convolution too (an odd number of columns); small images.
    _problem(_SHAPE, F32),
    _problem(_SHAPE, BF16, True),
    _problem(_SHAPE, F32, True, taps=(3,), padding=1),
    _problem((16, 64, 128, 128), BF16, padding=2),
    _problem((64, 513, 4, 4), BF16, True),
    # Twice the size and, in the backward pass, half of it.
    _problem(_SHAPE, BF16, up=2, gain=4.0),
    _problem(_SHAPE, F32, True, up=2, gain=4.0),
    # More than 2^31 elements; the other types.
    _problem((2, 16, 8192, 8200), F32, taps=(2, 2), padding=(1, 0, 1, 0)),
    _problem((2, 16, 8192, 8200), F16, True, taps=(2, 2), padding=(1, 0, 1, 0)),
    _problem((4, 16, 64, 64), F64, taps=(2, 2), padding=(1, 0, 1, 0)),
]
