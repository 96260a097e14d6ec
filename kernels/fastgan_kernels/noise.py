"""Standard normal noise, one value per sample and pixel, from a seed on the device and the counter n * HW + pixel.

The generator is Philox4x32-10 (Salmon et al. 2011), keyed by the 64-bit seed, followed by Box and Muller's transform
(1958). The values are those of ``tl.randn``, up to rounding. They do not depend on tiles, layout or backend.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.autograd import DifferentiableOp
from fastgan_kernels.launch import launch_kernel
from fastgan_kernels.tiling import cdiv

_BLOCK = 1024


@triton.jit
def standard_normal(seed_ptr, counter):
    """A float32 per 64-bit counter."""
    u1, u2, _, _ = tl.rand4x(tl.load(seed_ptr), counter)
    radius = tl.sqrt(-2.0 * tl.log(tl.maximum(u1, 1.0e-7)))
    # cos(2 pi u2) is computed as the sine of an angle within +-pi/2, by a series whose error is below half a rounding.
    # tl.cos reduces angles of any size, with a table in local memory.
    angle = 6.283185307179586 * (tl.abs(u2 - 0.5) - 0.25)
    square = angle * angle
    series = -1 / 39916800 * square + 1 / 362880
    series = series * square - 1 / 5040
    series = series * square + 1 / 120
    series = series * square - 1 / 6
    return radius * (angle + angle * square * series)


@triton.jit(do_not_specialize=["count"])
def _normal_noise_kernel(noise_ptr, seed_ptr, count, BLOCK: tl.constexpr):
    counter = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(noise_ptr + counter, standard_normal(seed_ptr, counter), mask=counter < count)


def _launch(seed: Tensor, x: Tensor) -> Tensor:
    noise = _empty_noise(seed, x)
    if noise.numel():
        grid, count = (cdiv(noise.numel(), _BLOCK),), (noise.numel(),)
        launch_kernel(_normal_noise_kernel, grid, (noise, seed), count, BLOCK=_BLOCK, num_warps=4)
    return noise


def _empty_noise(seed: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], 1, *x.shape[2:], dtype=torch.float32)


def _mark_constant(ctx: Any, inputs: tuple[Any, ...], noise: Tensor) -> None:
    ctx.mark_non_differentiable(noise)


normal_noise = DifferentiableOp(
    "normal_noise(Tensor seed, Tensor x) -> Tensor",
    launch=_launch,
    fake=_empty_noise,
    setup_context=_mark_constant,
    backward=lambda ctx, _: (None, None),
)
"""Maps a seed and x [N, C, *spatial] to noise [N, 1, *spatial] in float32, which has no gradient."""


def draw_seed(x: Tensor) -> Tensor:
    """A one-element int64 seed on the device of ``x``, from torch's generator there."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=x.device)
