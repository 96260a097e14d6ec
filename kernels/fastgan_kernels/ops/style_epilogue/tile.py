"""What the two passes of adain and style_epilogue share: the tile that is normalised, and the launch.

Normalised is z = act(x + strength * noise + bias), of which every part but x may be absent; an absent operand is None,
an absent activation "linear". z is computed again wherever x is read again.
"""

import math

import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate
from fastgan_kernels.layout import as_matrix
from fastgan_kernels.noise import normal_noise
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import PlaneTiling, alignment, plane_tiling


@triton.jit
def per_plane(ptr, stride, sample, channel, exists, COMPUTE: tl.constexpr):
    """The scale or shift of each plane, from a matrix [N, C] with a row stride."""
    return tl.load(ptr + (sample * stride + channel), mask=exists, other=0.0).to(COMPUTE)


@triton.jit
def noise_of_tile(
    noise_ptr,
    sample,
    tile,
    pixels,
    mask,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    """The noise [N, pixels] under a tile of a block of planes, ready to broadcast."""
    pixel = tile * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    if CHANNELS_LAST:
        return tl.load(noise_ptr + sample * pixels + pixel, mask=pixel < pixels, other=0.0).to(COMPUTE)[None, :]
    else:
        return tl.load((noise_ptr + sample * pixels)[:, None] + pixel[None, :], mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def normalised_tile(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, offset, mask, exists, sample, channel, tile, pixels,
    ACT: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """z of a tile of a block of planes; not 0 where there is no element."""
    z = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if noise_ptr is not None:
        strength = tl.load(strength_ptr + channel * STRENGTH_STRIDE, mask=exists, other=0.0).to(COMPUTE)
        noise = noise_of_tile(noise_ptr, sample, tile, pixels, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
        z += strength[:, None] * noise
    if bias_ptr is not None:
        z += tl.load(bias_ptr + channel, mask=exists, other=0.0).to(COMPUTE)[:, None]
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
            "BLOCK_PLANES": self.tiling.block_planes,
            "BLOCK_PIXELS": self.tiling.block_pixels,
            "num_warps": self.tiling.num_warps,
        }

    def new_partials(self, x: Tensor) -> Tensor:
        return new_statistic(x, self.tiling.spans)


def noise_rows(x: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor | None:
    """The noise as [N, pixels]. A program has few channels, so what is drawn is drawn beforehand, once for all."""
    noise = noise if seed is None else normal_noise(seed, x)
    return None if noise is None else noise.reshape(x.shape[0], -1).contiguous()


def new_statistic(x: Tensor, *more: int) -> Tensor:
    """Uninitialised memory for a number a plane: [N, C, *more] in the type of the arithmetic."""
    return x.new_empty(*x.shape[:2], *more, dtype=compute_dtype(x.dtype))


def rows(style: Tensor) -> Tensor:
    """``style`` [N, C] with neighbouring channels; rows may lie apart, as in a chunk of a wider matrix."""
    return style if style.stride(1) == 1 else style.contiguous()
