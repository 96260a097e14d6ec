"""The common part of both passes of adain and style_epilogue: the normalized tile, and the launch.

The ops normalize z = act(x + strength * noise + bias). Every part except x may be absent: an absent operand is None, an
absent activation "linear". z is computed again wherever x is read again.
"""

import math
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate
from fastgan_kernels.layout import as_matrix
from fastgan_kernels.noise import normal_noise
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import PlaneTiling, alignment, plane_tiling


class Inputs(NamedTuple):
    """In kernels, the pointers of the operands of z."""

    x_ptr: Any
    noise_ptr: Any
    strength_ptr: Any
    bias_ptr: Any


@triton.jit
def per_plane(ptr, stride, planes, COMPUTE: tl.constexpr):
    """The scale or shift of each plane, from a matrix [N, C] with a row stride."""
    return tl.load(ptr + (planes.sample * stride + planes.channel), mask=planes.exists, other=0.0).to(COMPUTE)


@triton.jit
def noise_of_tile(
    noise_ptr, planes, tile, mask, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    """The noise [N, pixels] under a tile of a block of planes, ready to broadcast."""
    pixel = tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    line = noise_ptr + planes.sample * planes.pixels
    if CHANNELS_LAST:
        return tl.load(line + pixel, mask=pixel < planes.pixels, other=0.0).to(COMPUTE)[None, :]
    else:
        return tl.load(line[:, None] + pixel[None, :], mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def normalised_tile(
    inputs, planes, tile, offset, mask, ACT: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """z of a tile of a block of planes. Elements outside of the mask are not 0."""
    z = tl.load(inputs.x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if inputs.noise_ptr is not None:
        strength_ptr = inputs.strength_ptr + planes.channel * STRENGTH_STRIDE
        strength = tl.load(strength_ptr, mask=planes.exists, other=0.0).to(COMPUTE)
        noise = noise_of_tile(inputs.noise_ptr, planes, tile, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
        z += strength[:, None] * noise
    if inputs.bias_ptr is not None:
        z += tl.load(inputs.bias_ptr + planes.channel, mask=planes.exists, other=0.0).to(COMPUTE)[:, None]
    return activate(z, ACT, SLOPE, COMPUTE)


class EpilogueLaunch:
    """A dense feature map, its tiling, and the arguments that every kernel takes."""

    def __init__(self, x: Tensor, strength: Tensor | None, act: str, slope: float, order: str, *, tensors: int) -> None:
        samples, channels = x.shape[:2]
        pixels = math.prod(x.shape[2:])
        channels_last = as_matrix(x).channels_last
        minor, major = (channels, pixels) if channels_last else (pixels, channels)
        align = alignment(minor)
        self.tiling: PlaneTiling = plane_tiling(
            samples, channels, pixels, x.element_size(), channels_last=channels_last, tensors=tensors
        )
        self.extents = (samples, minor // align, major)
        self.constants = {
            "ACT_BEFORE": act if order == "paper" else "linear",
            "ACT_AFTER": act if order == "tutorial" else "linear",
            "SLOPE": slope,
            "STRENGTH_STRIDE": 0 if strength is None else strength.dim(),
            "CHANNELS_LAST": channels_last,
            "COMPUTE": triton_compute_dtype(x.dtype),
            "ALIGN": align,
            **self.tiling.constants,
        }

    def new_partials(self, x: Tensor) -> Tensor:
        return new_statistic(x, self.tiling.spans)


def noise_rows(x: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor | None:
    """The noise as [N, pixels], given or drawn here, once for all channels: each program has only a few of them."""
    noise = noise if seed is None else normal_noise(seed, x)
    return None if noise is None else noise.reshape(x.shape[0], -1).contiguous()


def new_statistic(x: Tensor, *more: int) -> Tensor:
    """Uninitialized memory for one number per plane: [N, C, *more], in the type of the arithmetic."""
    return x.new_empty(*x.shape[:2], *more, dtype=compute_dtype(x.dtype))


def rows(style: Tensor) -> Tensor:
    """``style`` [N, C] with neighboring channels in memory; rows may lie apart, as in a chunk of a wider matrix."""
    return style if style.stride(1) == 1 else style.contiguous()
