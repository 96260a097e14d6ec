"""The first gradient of adain and style_epilogue in one pass, fused like the forward.

With z of tile.py, xh = (z - mean) * r, M the mean over a plane, and g the incoming gradient dy, in the
tutorial's order through the activation,

    dz = scale * r * (g - M(g) - xh * M(g * xh)),    dscale = sum(g * xh),    dshift = sum(g)

and dx = dz, in the paper's order through the activation; dbias and dstrength are sums of dx and of dx * noise.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.layout import (
    block_of_planes,
    dense,
    empty_dense,
    extents,
    over_pixels,
    tile_of_planes,
    tiles_of_span,
)
from fastgan_kernels.ops.noise_injection import noise_gradients
from fastgan_kernels.ops.style_epilogue.tile import (
    EpilogueLaunch,
    noise_of_tile,
    noise_rows,
    normalised_tile,
    per_plane,
    rows,
)
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import next_power_of_2

# In these kernels an output that nobody asked for is None. The shift is one too unless the activation comes after it.


@triton.jit
def _sums(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
    first, exists, sample, channel, start, stop, channels, pixels, mean, rstd,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums of g and of g * xh over the tiles start to stop: their share of dshift and dscale."""
    if shift_ptr is not None:
        scale = per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
        shift = per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
    g_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    gxh_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        z = normalised_tile(
            x_ptr, noise_ptr, strength_ptr, bias_ptr, offset, mask, exists, sample, channel, tile, pixels,
            ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
        )  # fmt: skip
        if shift_ptr is not None:
            y = (z - mean[:, None]) * (scale * rstd)[:, None] + shift[:, None]
            g = through_activation(g, y, ACT_AFTER, SLOPE, COMPUTE)
        g_of_lane += g
        gxh_of_lane += g * (z - mean[:, None])
    return tl.sum(g_of_lane, axis=1), tl.sum(gxh_of_lane, axis=1) * rstd


@triton.jit
def _project(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
    dx_ptr, dbias_ptr, dstrength_ptr, partial,
    first, exists, sample, channel, start, stop, channels, pixels, mean, rstd, mean_g, mean_gxh,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """dx over the tiles start to stop, and its sums."""
    factor = per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE) * rstd
    if shift_ptr is not None:
        shift = per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
    if dbias_ptr is not None:
        dbias = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    if dstrength_ptr is not None:
        dstrength = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        z = normalised_tile(
            x_ptr, noise_ptr, strength_ptr, bias_ptr, offset, mask, exists, sample, channel, tile, pixels,
            ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
        )  # fmt: skip
        if shift_ptr is not None:
            y = (z - mean[:, None]) * factor[:, None] + shift[:, None]
            g = through_activation(g, y, ACT_AFTER, SLOPE, COMPUTE)
        xh = (z - mean[:, None]) * rstd[:, None]
        dx = (g - over_pixels(mean_g) - xh * over_pixels(mean_gxh)) * factor[:, None]
        dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
        if dx_ptr is not None:
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if dbias_ptr is not None or dstrength_ptr is not None:
            dx = tl.where(mask, dx, 0.0)
        if dstrength_ptr is not None:
            # Read again, from L1: behind the store the compiler cannot keep it, and it would not fit the registers.
            noise = noise_of_tile(noise_ptr, sample, tile, pixels, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
            dstrength += dx * noise
        if dbias_ptr is not None:
            dbias += dx
    if dbias_ptr is not None:
        tl.store(dbias_ptr + partial, tl.sum(dbias, axis=1), mask=exists)
    if dstrength_ptr is not None:
        tl.store(dstrength_ptr + partial, tl.sum(dstrength, axis=1), mask=exists)


@triton.jit
def _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh):
    if dscale_ptr is not None:
        tl.store(dscale_ptr + plane, sum_gxh, mask=exists)
    if dshift_ptr is not None:
        tl.store(dshift_ptr + plane, sum_g, mask=exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "scale_stride", "shift_stride"])
def _backward_kernel(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, mean_ptr, rstd_ptr,
    dx_ptr, dscale_ptr, dshift_ptr, dbias_ptr, dstrength_ptr,
    samples, minor_groups, major, scale_stride, shift_stride,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes that fit into registers: g and x read once, dx written once."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
    rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
    scale = per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
    if shift_ptr is not None:
        shift = per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
    offset, mask = tile_of_planes(first, exists, 0, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
    z = normalised_tile(
        x_ptr, noise_ptr, strength_ptr, bias_ptr, offset, mask, exists, sample, channel, 0, pixels,
        ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
    )  # fmt: skip
    g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    xh = (z - mean[:, None]) * rstd[:, None]
    if shift_ptr is not None:
        y = (z - mean[:, None]) * (scale * rstd)[:, None] + shift[:, None]
        g = through_activation(g, y, ACT_AFTER, SLOPE, COMPUTE)
    sum_g = tl.sum(g, axis=1)
    sum_gxh = tl.sum(g * xh, axis=1)
    _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)
    if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
        count = tl.zeros((), COMPUTE) + pixels
        dx = (g - (sum_g / count)[:, None] - xh * (sum_gxh / count)[:, None]) * (scale * rstd)[:, None]
        dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
        # Addressed anew, by a tile index that the compiler cannot tell from 0: kept since the loads, the pointers and
        # masks of all elements of a thread would not fit its registers. Small planes without noise have few of them,
        # and in float64 need the registers (benchmarks/static/compiled.csv, on Triton 3.6 too).
        tile = tl.program_id(1)
        if noise_ptr is not None or BLOCK_PLANES == 1:
            offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        if dbias_ptr is not None or dstrength_ptr is not None:
            dx = tl.where(mask, dx, 0.0)
        if dx_ptr is not None:
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if dstrength_ptr is not None:
            noise = noise_of_tile(noise_ptr, sample, tile, pixels, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
            tl.store(dstrength_ptr + plane, tl.sum(dx * noise, axis=1), mask=exists)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + plane, tl.sum(dx, axis=1), mask=exists)


@triton.jit(
    do_not_specialize=["samples", "minor_groups", "major", "plane_blocks", "tiles", "scale_stride", "shift_stride"]
)
def _looping_backward_kernel(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, mean_ptr, rstd_ptr,
    dx_ptr, dscale_ptr, dshift_ptr, dbias_ptr, dstrength_ptr,
    samples, minor_groups, major, plane_blocks, tiles, scale_stride, shift_stride,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes, so few at a time that the second read of each comes from L2."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    for block in range(tl.program_id(0), plane_blocks, tl.num_programs(0)):
        sample, channel, plane, exists, first = block_of_planes(
            block, samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
        )
        mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
        rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
        sum_g, sum_gxh = _sums(
            g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
            first, exists, sample, channel, 0, tiles, channels, pixels, mean, rstd,
            ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
        _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)
        if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
            count = tl.zeros((), COMPUTE) + pixels
            _project(
                g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
                dx_ptr, dbias_ptr, dstrength_ptr, plane,
                first, exists, sample, channel, 0, tiles, channels, pixels, mean, rstd, sum_g / count, sum_gxh / count,
                ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
            )  # fmt: skip


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles", "scale_stride", "shift_stride"])
def _span_sums_kernel(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, mean_ptr, rstd_ptr,
    sums_g_ptr, sums_gxh_ptr,
    samples, minor_groups, major, tiles, scale_stride, shift_stride,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The sums of one span of tiles: partials [planes, SPANS]."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
    rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
    sum_g, sum_gxh = _sums(
        g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
        first, exists, sample, channel, start, stop, channels, pixels, mean, rstd,
        ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
    )  # fmt: skip
    tl.store(sums_g_ptr + plane * SPANS + span, sum_g, mask=exists)
    tl.store(sums_gxh_ptr + plane * SPANS + span, sum_gxh, mask=exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles", "scale_stride", "shift_stride"])
def _span_project_kernel(
    g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, mean_ptr, rstd_ptr,
    sums_g_ptr, sums_gxh_ptr, dx_ptr, dscale_ptr, dshift_ptr, dbias_ptr, dstrength_ptr,
    samples, minor_groups, major, tiles, scale_stride, shift_stride,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """Combines the sums of all spans and writes the gradient of one."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    others = tl.arange(0, SPANS_POWER_OF_2)
    partial = plane[:, None] * SPANS + others[None, :]
    mask = exists[:, None] & (others < SPANS)[None, :]
    sum_g = tl.sum(tl.load(sums_g_ptr + partial, mask=mask, other=0.0), axis=1)
    sum_gxh = tl.sum(tl.load(sums_gxh_ptr + partial, mask=mask, other=0.0), axis=1)
    span = tl.program_id(1)
    if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
        mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
        rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
        count = tl.zeros((), COMPUTE) + pixels
        start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
        _project(
            g_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, scale_stride, shift_ptr, shift_stride,
            dx_ptr, dbias_ptr, dstrength_ptr, plane * SPANS + span,
            first, exists, sample, channel, start, stop, channels, pixels, mean, rstd, sum_g / count, sum_gxh / count,
            ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
    if span == 0:
        _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)


def launch_backward(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor | None, noise: Tensor | None, seed: Tensor | None,
    strength: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    act: str, slope: float, order: str, eps: float,
    needs_x: bool, needs_scale: bool, needs_shift: bool, needs_noise: bool, needs_strength: bool, needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, scale, shift, noise, strength and bias; those that are not needed are empty."""
    needs = needs_x, needs_scale, needs_shift, needs_noise, needs_strength, needs_bias
    x = dense(x)
    dx, dscale, dshift, dnoise, dstrength, dbias = gradients = empty_gradients(x, strength, *needs)
    if x.numel() == 0:
        return dx, *(t.zero_() for t in gradients[1:])
    launch = EpilogueLaunch(x, strength, act, slope, order, tensors=2)
    tiling = launch.tiling
    # The gradient of the noise is a sum of dx over channels, of values not yet rounded to the type of x.
    wide_dx = torch.empty_like(x, dtype=compute_dtype(x.dtype)) if needs_noise else dx if needs_x else None
    bias_sums, strength_sums = (launch.new_partials(x) if need else None for need in (needs_bias, needs_strength))
    projected = wide_dx, dscale if needs_scale else None, dshift if needs_shift else None, bias_sums, strength_sums
    scale, shift = rows(scale), None if shift is None else rows(shift)
    operands = (
        dense(g, like=x), x, noise_rows(x, noise, seed),
        *(None if t is None else t.contiguous() for t in (strength, bias)), scale, shift, mean, rstd,
    )  # fmt: skip
    strides = scale.stride(0), 0 if shift is None else shift.stride(0)
    if tiling.resident:
        _backward_kernel[tiling.grid](*operands, *projected, *launch.extents, *strides, **launch.constants)
    elif tiling.spans == 1:
        _looping_backward_kernel[tiling.grid](
            *operands, *projected, *launch.extents, tiling.plane_blocks, tiling.tiles, *strides, **launch.constants
        )
    else:
        sums_g, sums_gxh = launch.new_partials(x), launch.new_partials(x)
        _span_sums_kernel[tiling.grid](
            *operands, sums_g, sums_gxh, *launch.extents, tiling.tiles, *strides,
            SPANS=tiling.spans, **launch.constants,
        )  # fmt: skip
        projects = needs_x or needs_noise or needs_strength or needs_bias
        _span_project_kernel[tiling.grid if projects else (tiling.plane_programs, 1)](
            *operands, sums_g, sums_gxh, *projected, *launch.extents, tiling.tiles, *strides,
            SPANS=tiling.spans, SPANS_POWER_OF_2=next_power_of_2(tiling.spans), **launch.constants,
        )  # fmt: skip
    if needs_bias:
        dbias = sum_partials(bias_sums)
    if needs_strength:
        dstrength = sum_partials(strength_sums)
        dstrength = dstrength if strength.dim() else sum_partials(dstrength.view(1, 1, -1)).view(())
    if needs_noise:
        _, dnoise = noise_gradients(wide_dx, strength, None, None, strength.dim() == 1, False, True)
        dx = wide_dx.to(x.dtype) if needs_x else dx
    return dx, dscale, dshift, dnoise, dstrength, dbias


def empty_gradients(
    x: Tensor, strength: Tensor | None, needs_x: bool, needs_scale: bool, needs_shift: bool, needs_noise: bool,
    needs_strength: bool, needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Uninitialised, without elements where none is needed; all but dx in the type of the arithmetic."""
    dtype = compute_dtype(x.dtype)

    def new(needed: bool, *shape: int) -> Tensor:
        return x.new_empty(shape if needed else 0, dtype=dtype)

    n, c, *spatial = x.shape
    return (
        empty_dense(x) if needs_x else x.new_empty(0),
        new(needs_scale, n, c),
        new(needs_shift, n, c),
        new(needs_noise, n, 1, *spatial),
        new(needs_strength, *(strength.shape if needs_strength else ())),
        new(needs_bias, c),
    )
