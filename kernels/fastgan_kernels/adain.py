"""Adaptive instance normalisation (Huang and Belongie 2017, eq. 8; Karras et al. 2019, eq. 1).

Over the L pixels of each plane (n, c), with biased variance,

    y = scale * xh + shift,    xh = (x - mean) * r,    r = 1 / sqrt(var + eps)

and with M the mean over the plane and P(t) = t - M(t) - xh * M(t * xh), the first gradient is

    dx = scale * r * P(dy),    dscale = sum(dy * xh),    dshift = sum(dy).

Saved for backward: x, scale, and mean and r in the type of the arithmetic.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_feature_map, check_operand
from fastgan_kernels.differentiable import DifferentiableOp, guard_second_order
from fastgan_kernels.layout import as_matrix, block_of_planes, dense, empty_dense, tile_of_planes, tiles_of_span
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import PlaneTiling, alignment, next_power_of_2, plane_tiling


@triton.jit
def _extents(minor_groups, major, ALIGN: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Channels and pixels; the axis that is contiguous in memory comes with its alignment as a constant factor."""
    if CHANNELS_LAST:
        return minor_groups * ALIGN, major
    else:
        return major, minor_groups * ALIGN


@triton.jit
def _per_plane(ptr, stride, sample, channel, exists, COMPUTE: tl.constexpr):
    """The scale or shift of each plane, from a matrix [N, C] with a row stride."""
    return tl.load(ptr + (sample * stride + channel), mask=exists, other=0.0).to(COMPUTE)


@triton.jit
def _moments(
    x_ptr, first, exists, start, stop, channels, pixels,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations over the tiles start to stop.

    Every lane of a tile keeps the moments of its own pixels (Welford 1962), so that nothing is summed across threads
    before the end (Chan et al. 1983, eq. 2.1).
    """
    mean = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    m2 = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        delta = tl.where(mask, x - mean, 0.0)
        mean += delta * (tl.full((), 1.0, COMPUTE) / (tile - start + 1))
        m2 += delta * (x - mean)
    # Lanes past the end of the last tile have seen one pixel less than the others.
    in_last_tile = (stop - 1) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS) < pixels
    count = tl.zeros((), COMPUTE) + (stop - start) - tl.where(in_last_tile, 0, 1)
    total = tl.sum(count, axis=0)
    mean_of_all = tl.sum(mean * count[None, :], axis=1) / total
    deviation = mean - mean_of_all[:, None]
    return mean_of_all, tl.sum(m2 + deviation * deviation * count[None, :], axis=1)


@triton.jit
def _normalise(
    x_ptr, y_ptr, first, exists, start, stop, channels, pixels, mean, factor, shift,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """y = (x - mean) * factor + shift over the tiles start to stop."""
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        y = (x - mean[:, None]) * factor[:, None] + shift[:, None]
        tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "scale_stride", "shift_stride"])
def _forward_kernel(
    x_ptr, scale_ptr, shift_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, scale_stride, shift_stride,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes that fit into registers: read once, written once."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    offset, mask = tile_of_planes(first, exists, 0, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    count = tl.zeros((), COMPUTE) + pixels
    mean = tl.sum(x, axis=1) / count
    deviation = tl.where(mask, x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(deviation * deviation, axis=1) / count + tl.full((), EPS, COMPUTE))
    scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
    shift = _per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
    y = deviation * (scale * rstd)[:, None] + shift[:, None]
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + plane, mean, mask=exists)
    tl.store(rstd_ptr + plane, rstd, mask=exists)


@triton.jit(
    do_not_specialize=["samples", "minor_groups", "major", "plane_blocks", "tiles", "scale_stride", "shift_stride"]
)
def _looping_forward_kernel(
    x_ptr, scale_ptr, shift_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, plane_blocks, tiles, scale_stride, shift_stride,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes, so few at a time that the second read of each comes from L2."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    for block in range(tl.program_id(0), plane_blocks, tl.num_programs(0)):
        sample, channel, plane, exists, first = block_of_planes(
            block, samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
        )
        mean, m2 = _moments(
            x_ptr, first, exists, 0, tiles, channels, pixels, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS
        )
        rstd = tl.rsqrt(m2 / (tl.zeros((), COMPUTE) + pixels) + tl.full((), EPS, COMPUTE))
        scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
        shift = _per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
        _normalise(
            x_ptr, y_ptr, first, exists, 0, tiles, channels, pixels, mean, scale * rstd, shift,
            CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
        )  # fmt: skip
        tl.store(mean_ptr + plane, mean, mask=exists)
        tl.store(rstd_ptr + plane, rstd, mask=exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles"])
def _span_moments_kernel(
    x_ptr, means_ptr, m2s_ptr,
    samples, minor_groups, major, tiles,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The moments of one span of tiles: partials [planes, SPANS]."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    _, _, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
    mean, m2 = _moments(
        x_ptr, first, exists, start, stop, channels, pixels, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS
    )
    tl.store(means_ptr + plane * SPANS + span, mean, mask=exists)
    tl.store(m2s_ptr + plane * SPANS + span, m2, mask=exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles", "scale_stride", "shift_stride"])
def _span_normalise_kernel(
    x_ptr, scale_ptr, shift_ptr, means_ptr, m2s_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, tiles, scale_stride, shift_stride,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """Combines the moments of all spans and writes the output of one."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    others = tl.arange(0, SPANS_POWER_OF_2)
    partial = plane[:, None] * SPANS + others[None, :]
    mask = exists[:, None] & (others < SPANS)[None, :]
    means = tl.load(means_ptr + partial, mask=mask, other=0.0)
    m2s = tl.load(m2s_ptr + partial, mask=mask, other=0.0)
    span_pixels = tiles * BLOCK_PIXELS
    counts = tl.zeros((), COMPUTE) + tl.maximum(tl.minimum(pixels - others * span_pixels, span_pixels), 0)
    count = tl.zeros((), COMPUTE) + pixels
    mean = tl.sum(means * counts[None, :], axis=1) / count
    delta = means - mean[:, None]
    m2 = tl.sum(m2s + delta * delta * counts[None, :], axis=1)
    rstd = tl.rsqrt(m2 / count + tl.full((), EPS, COMPUTE))
    scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
    shift = _per_plane(shift_ptr, shift_stride, sample, channel, exists, COMPUTE)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
    _normalise(
        x_ptr, y_ptr, first, exists, start, stop, channels, pixels, mean, scale * rstd, shift,
        CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
    )  # fmt: skip
    if span == 0:
        tl.store(mean_ptr + plane, mean, mask=exists)
        tl.store(rstd_ptr + plane, rstd, mask=exists)


@triton.jit
def _sums(
    g_ptr, x_ptr, first, exists, start, stop, channels, pixels, mean, rstd,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums of g and of g * xh over the tiles start to stop: their share of dshift and dscale."""
    g_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    gxh_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        g_of_lane += g
        gxh_of_lane += g * (x - mean[:, None])
    return tl.sum(g_of_lane, axis=1), tl.sum(gxh_of_lane, axis=1) * rstd


@triton.jit
def _project(
    g_ptr, x_ptr, dx_ptr, first, exists, start, stop, channels, pixels, mean, rstd, scale, mean_g, mean_gxh,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """dx = scale * r * P(g) over the tiles start to stop."""
    for tile in range(start, stop):
        offset, mask = tile_of_planes(first, exists, tile, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        xh = (x - mean[:, None]) * rstd[:, None]
        dx = (g - mean_g[:, None] - xh * mean_gxh[:, None]) * (scale * rstd)[:, None]
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh):
    if dscale_ptr is not None:
        tl.store(dscale_ptr + plane, sum_gxh, mask=exists)
    if dshift_ptr is not None:
        tl.store(dshift_ptr + plane, sum_g, mask=exists)


# In the backward kernels an output that nobody asked for is None.


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "scale_stride"])
def _backward_kernel(
    g_ptr, x_ptr, scale_ptr, mean_ptr, rstd_ptr, dx_ptr, dscale_ptr, dshift_ptr,
    samples, minor_groups, major, scale_stride,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes that fit into registers: g and x read once, dx written once."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
    rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
    offset, mask = tile_of_planes(first, exists, 0, channels, pixels, CHANNELS_LAST, BLOCK_PIXELS)
    g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    xh = (x - mean[:, None]) * rstd[:, None]
    sum_g = tl.sum(g, axis=1)
    sum_gxh = tl.sum(g * xh, axis=1)
    _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)
    if dx_ptr is not None:
        scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
        count = tl.zeros((), COMPUTE) + pixels
        dx = (g - (sum_g / count)[:, None] - xh * (sum_gxh / count)[:, None]) * (scale * rstd)[:, None]
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "plane_blocks", "tiles", "scale_stride"])
def _looping_backward_kernel(
    g_ptr, x_ptr, scale_ptr, mean_ptr, rstd_ptr, dx_ptr, dscale_ptr, dshift_ptr,
    samples, minor_groups, major, plane_blocks, tiles, scale_stride,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes, so few at a time that the second read of each comes from L2."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    for block in range(tl.program_id(0), plane_blocks, tl.num_programs(0)):
        sample, channel, plane, exists, first = block_of_planes(
            block, samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
        )
        mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
        rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
        sum_g, sum_gxh = _sums(
            g_ptr, x_ptr, first, exists, 0, tiles, channels, pixels, mean, rstd,
            CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
        _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)
        if dx_ptr is not None:
            scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
            count = tl.zeros((), COMPUTE) + pixels
            _project(
                g_ptr, x_ptr, dx_ptr, first, exists, 0, tiles, channels, pixels,
                mean, rstd, scale, sum_g / count, sum_gxh / count, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
            )  # fmt: skip


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles"])
def _span_sums_kernel(
    g_ptr, x_ptr, mean_ptr, rstd_ptr, sums_g_ptr, sums_gxh_ptr,
    samples, minor_groups, major, tiles,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The sums of one span of tiles: partials [planes, SPANS]."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    _, _, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
    rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
    sum_g, sum_gxh = _sums(
        g_ptr, x_ptr, first, exists, start, stop, channels, pixels, mean, rstd,
        CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
    )  # fmt: skip
    tl.store(sums_g_ptr + plane * SPANS + span, sum_g, mask=exists)
    tl.store(sums_gxh_ptr + plane * SPANS + span, sum_gxh, mask=exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles", "scale_stride"])
def _span_project_kernel(
    g_ptr, x_ptr, scale_ptr, mean_ptr, rstd_ptr, sums_g_ptr, sums_gxh_ptr, dx_ptr, dscale_ptr, dshift_ptr,
    samples, minor_groups, major, tiles, scale_stride,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """Combines the sums of all spans and writes the gradient of one."""
    channels, pixels = _extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    sample, channel, plane, exists, first = block_of_planes(
        tl.program_id(0), samples, channels, pixels, CHANNELS_LAST, BLOCK_PLANES
    )
    others = tl.arange(0, SPANS_POWER_OF_2)
    partial = plane[:, None] * SPANS + others[None, :]
    mask = exists[:, None] & (others < SPANS)[None, :]
    sum_g = tl.sum(tl.load(sums_g_ptr + partial, mask=mask, other=0.0), axis=1)
    sum_gxh = tl.sum(tl.load(sums_gxh_ptr + partial, mask=mask, other=0.0), axis=1)
    span = tl.program_id(1)
    if dx_ptr is not None:
        mean = tl.load(mean_ptr + plane, mask=exists, other=0.0)
        rstd = tl.load(rstd_ptr + plane, mask=exists, other=0.0)
        scale = _per_plane(scale_ptr, scale_stride, sample, channel, exists, COMPUTE)
        count = tl.zeros((), COMPUTE) + pixels
        start, stop = tiles_of_span(span, tiles, pixels, BLOCK_PIXELS)
        _project(
            g_ptr, x_ptr, dx_ptr, first, exists, start, stop, channels, pixels,
            mean, rstd, scale, sum_g / count, sum_gxh / count, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
        )  # fmt: skip
    if span == 0:
        _store_sums(dscale_ptr, dshift_ptr, plane, exists, sum_g, sum_gxh)


class _Launch:
    """A dense feature map, its tiling, and the arguments that every kernel of this file takes."""

    def __init__(self, x: Tensor, *, tensors: int) -> None:
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
            "CHANNELS_LAST": channels_last,
            "COMPUTE": triton_compute_dtype(x.dtype),
            "ALIGN": align,
            "BLOCK_PLANES": self.tiling.block_planes,
            "BLOCK_PIXELS": self.tiling.block_pixels,
            "num_warps": self.tiling.num_warps,
        }

    def new_partials(self, x: Tensor) -> Tensor:
        return _new_statistic(x, self.tiling.spans)


def _new_statistic(x: Tensor, *more: int) -> Tensor:
    """Uninitialised memory for a number a plane: [N, C, *more] in the type of the arithmetic."""
    return x.new_empty(*x.shape[:2], *more, dtype=compute_dtype(x.dtype))


def _rows(style: Tensor) -> Tensor:
    """``style`` [N, C] with neighbouring channels; rows may lie apart, as in a chunk of a wider matrix."""
    return style if style.stride(1) == 1 else style.contiguous()


def _launch_forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = dense(x)
    y = torch.empty_like(x)
    mean, rstd = _new_statistic(x), _new_statistic(x)
    if y.numel() == 0:
        return y, mean, rstd
    scale, shift = _rows(scale), _rows(shift)
    launch = _Launch(x, tensors=1)
    tiling = launch.tiling
    outputs = y, mean, rstd
    strides = scale.stride(0), shift.stride(0)
    if tiling.resident:
        _forward_kernel[tiling.grid](x, scale, shift, *outputs, *launch.extents, *strides, EPS=eps, **launch.constants)
        return outputs
    if tiling.spans == 1:
        _looping_forward_kernel[tiling.grid](
            x,
            scale,
            shift,
            *outputs,
            *launch.extents,
            tiling.plane_blocks,
            tiling.tiles,
            *strides,
            EPS=eps,
            **launch.constants,
        )
        return outputs
    means, m2s = launch.new_partials(x), launch.new_partials(x)
    _span_moments_kernel[tiling.grid](
        x, means, m2s, *launch.extents, tiling.tiles, SPANS=tiling.spans, **launch.constants
    )
    _span_normalise_kernel[tiling.grid](
        x, scale, shift, means, m2s, *outputs, *launch.extents, tiling.tiles, *strides,
        EPS=eps, SPANS=tiling.spans, SPANS_POWER_OF_2=next_power_of_2(tiling.spans), **launch.constants,
    )  # fmt: skip
    return outputs


def _launch_backward(
    g: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor, eps: float,
    needs_x: bool, needs_scale: bool, needs_shift: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    x = dense(x)
    dx, dscale, dshift = outputs = _empty_gradients(x, needs_x, needs_scale, needs_shift)
    if x.numel() == 0:
        return dx, dscale.zero_(), dshift.zero_()
    g, scale = dense(g, like=x), _rows(scale)
    dx, dscale, dshift = (t if t.numel() else None for t in outputs)
    launch = _Launch(x, tensors=2)
    tiling = launch.tiling
    operands = g, x, scale, mean, rstd
    if tiling.resident:
        _backward_kernel[tiling.grid](
            *operands, dx, dscale, dshift, *launch.extents, scale.stride(0), **launch.constants
        )
        return outputs
    if tiling.spans == 1:
        _looping_backward_kernel[tiling.grid](
            *operands,
            dx,
            dscale,
            dshift,
            *launch.extents,
            tiling.plane_blocks,
            tiling.tiles,
            scale.stride(0),
            **launch.constants,
        )
        return outputs
    sums_g, sums_gxh = launch.new_partials(x), launch.new_partials(x)
    _span_sums_kernel[tiling.grid](
        g, x, mean, rstd, sums_g, sums_gxh, *launch.extents, tiling.tiles, SPANS=tiling.spans, **launch.constants
    )
    _span_project_kernel[tiling.grid if needs_x else (tiling.plane_programs, 1)](
        *operands, sums_g, sums_gxh, dx, dscale, dshift, *launch.extents, tiling.tiles, scale.stride(0),
        SPANS=tiling.spans, SPANS_POWER_OF_2=next_power_of_2(tiling.spans), **launch.constants,
    )  # fmt: skip
    return outputs


def _empty_gradients(x: Tensor, needs_x: bool, needs_scale: bool, needs_shift: bool) -> tuple[Tensor, Tensor, Tensor]:
    absent = x.new_empty(0, dtype=compute_dtype(x.dtype))
    return (
        empty_dense(x) if needs_x else x.new_empty(0),
        _new_statistic(x) if needs_scale else absent,
        _new_statistic(x) if needs_shift else absent.clone(),
    )


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    g, x, scale, _, _, ctx.eps, *ctx.has_gradients = inputs
    ctx.save_for_backward(g, x, scale)


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of <dx, v> + <dscale, a> + <dshift, b>, in differentiable torch operations.

    Mean and r are computed anew from x: as saved they would be constants, and the third order wrong.
    """
    # An output that was not asked for is empty, and so is what comes back for it.
    v, a, b = (t if has else None for t, has in zip(cotangents, ctx.has_gradients, strict=True))
    g, x, scale = ctx.saved_tensors
    spatial = tuple(range(2, x.dim()))
    per_plane = (*scale.shape, *(1,) * len(spatial))

    def widened(t: Tensor) -> Tensor:
        return t.to(compute_dtype(x.dtype))

    def plane_mean(t: Tensor) -> Tensor:
        return t.mean(spatial, keepdim=True) if spatial else t

    def project(t: Tensor) -> Tensor:
        return t - plane_mean(t) - xh * plane_mean(t * xh)

    with reference.no_autocast(x):
        wide_g, wide_x, s = widened(g), widened(x), widened(scale).reshape(per_plane)
        deviation = wide_x - plane_mean(wide_x)
        r = torch.rsqrt(plane_mean(deviation.square()) + ctx.eps)
        xh = deviation * r
        dg = torch.zeros_like(wide_g)
        dx = torch.zeros_like(wide_x)
        dscale = torch.zeros_like(s)
        if v is not None:
            v = widened(v)
            mean_vpg = plane_mean(v * project(wide_g))
            dg = dg + s * r * project(v)
            dscale = dscale + r * mean_vpg * math.prod(x.shape[2:])
            dxh = -s * r * (v * plane_mean(wide_g * xh) + wide_g * plane_mean(v * xh))
            dx = dx + r * project(dxh) - s * r.square() * mean_vpg * xh
        if a is not None:
            a = widened(a).reshape(per_plane)
            dg = dg + a * xh
            dx = dx + r * project(a * wide_g)
        if b is not None:
            dg = dg + widened(b).reshape(per_plane)
        return dg.to(g.dtype), dx.to(x.dtype), dscale.reshape(scale.shape).to(scale.dtype), *(None,) * 6


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, scale, shift, ctx.eps = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.save_for_backward(x, scale, mean, rstd)
    ctx.shift_dtype = shift.dtype


def _backward(ctx: Any, dy: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None, None
    x, scale, mean, rstd = ctx.saved_tensors
    needs = ctx.needs_input_grad[:3]
    gradients = _adain_backward(dy, x, scale, mean, rstd, ctx.eps, *needs)
    dtypes = x.dtype, scale.dtype, ctx.shift_dtype
    return *(t.to(d) if need else None for t, d, need in zip(gradients, dtypes, needs, strict=True)), None


def _fake_forward(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return empty_dense(x), _new_statistic(x), _new_statistic(x)


_adain_backward = DifferentiableOp(
    "adain_backward(Tensor g, Tensor x, Tensor scale, Tensor mean, Tensor rstd, float eps, bool needs_x,"
    " bool needs_scale, bool needs_shift) -> (Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda g, x, scale, mean, rstd, eps, *needs: _empty_gradients(x, *needs),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_adain = DifferentiableOp(
    "adain(Tensor x, Tensor scale, Tensor shift, float eps) -> (Tensor, Tensor, Tensor)",
    launch=_launch_forward,
    fake=_fake_forward,
    setup_context=_save_for_backward,
    backward=_backward,
)


def adain(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Instance normalisation over the spatial axes, then a scale and a shift for each sample and channel.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        scale, shift: [N, C], any floating-point type. Halves of one matrix (``style.chunk(2, dim=1)``) are not copied.
        eps: added to the biased variance; finite, at least 0.

    Returns:
        scale * (x - mean) / sqrt(var + eps) + shift, in the shape, type and layout of ``x``. Differentiable to any
        order in all three; the first gradient is fused, higher ones are torch operations. Saves x, scale and two
        numbers a plane.

    Raises:
        ValueError: for a shape, device or value other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("adain", x)
    check_operand("adain", "scale", scale, x.shape[:2], x)
    check_operand("adain", "shift", shift, x.shape[:2], x)
    if not 0 <= eps < math.inf:
        raise ValueError(f"adain: eps is {eps}, expected a finite number of at least 0")
    if not runs_triton(x):
        return reference.adain(guard_second_order(x), scale, shift, eps=eps)
    return _adain(x, scale, shift, float(eps))[0]
