"""The forward pass of adain and style_epilogue: y = act(scale * (z - mean) * r + shift), with z of tile.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate
from fastgan_kernels.layout import block_of_planes, contiguous, dense, over_pixels, tile_of_planes, tiles_of_span
from fastgan_kernels.ops.style_epilogue.tile import (
    EpilogueLaunch,
    Inputs,
    new_statistic,
    noise_rows,
    normalised_tile,
    per_plane,
    rows,
)
from fastgan_kernels.tiling import next_power_of_2


@triton.jit
def _moments(
    inputs, planes, start, stop, ACT_BEFORE: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of z over the tiles start to stop.

    Every lane of a tile keeps the moments of its own pixels (Welford 1962); threads combine them only at the end (Chan
    et al. 1983, eq. 2.1).
    """
    mean = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    m2 = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    seen = tl.zeros((), COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(planes, tile, CHANNELS_LAST, BLOCK_PIXELS)
        z = normalised_tile(
            inputs, planes, tile, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
        )
        delta = tl.where(mask, z - mean, 0.0)
        seen += 1
        mean += delta * (tl.full((), 1.0, COMPUTE) / seen)
        m2 += delta * (z - mean)
    # Lanes beyond the end of the last tile have one pixel less than the others.
    in_last_tile = (stop - 1) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS) < planes.pixels
    count = seen - tl.where(in_last_tile, 0, 1)
    total = tl.sum(count, axis=0)
    mean_of_all = tl.sum(mean * count[None, :], axis=1) / total
    deviation = mean - mean_of_all[:, None]
    return mean_of_all, tl.sum(m2 + deviation * deviation * count[None, :], axis=1)


@triton.jit
def _normalise(
    inputs, y_ptr, planes, start, stop, mean, factor, shift,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """y = act((z - mean) * factor + shift) over the tiles start to stop."""
    for tile in range(start, stop):
        offset, mask = tile_of_planes(planes, tile, CHANNELS_LAST, BLOCK_PIXELS)
        z = normalised_tile(
            inputs, planes, tile, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
        )
        y = activate((z - over_pixels(mean)) * over_pixels(factor) + shift[:, None], ACT_AFTER, SLOPE, COMPUTE)
        tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "scale_stride", "shift_stride"])
def _forward_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, scale_stride, shift_stride,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes that fit into registers: read once, written once."""
    inputs = Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr)
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    offset, mask = tile_of_planes(planes, 0, CHANNELS_LAST, BLOCK_PIXELS)
    z = normalised_tile(
        inputs, planes, 0, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
    )
    if noise_ptr is not None or bias_ptr is not None:
        z = tl.where(mask, z, 0.0)
    count = tl.zeros((), COMPUTE) + planes.pixels
    mean = tl.sum(z, axis=1) / count
    deviation = tl.where(mask, z - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(deviation * deviation, axis=1) / count + tl.full((), EPS, COMPUTE))
    scale = per_plane(scale_ptr, scale_stride, planes, COMPUTE)
    shift = per_plane(shift_ptr, shift_stride, planes, COMPUTE)
    y = activate(deviation * (scale * rstd)[:, None] + shift[:, None], ACT_AFTER, SLOPE, COMPUTE)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + planes.index, mean, mask=planes.exists)
    tl.store(rstd_ptr + planes.index, rstd, mask=planes.exists)


@triton.jit(
    do_not_specialize=["samples", "minor_groups", "major", "plane_blocks", "tiles", "scale_stride", "shift_stride"]
)
def _looping_forward_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, plane_blocks, tiles, scale_stride, shift_stride,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Planes that are read twice; so few are in flight that the second read comes from L2."""
    inputs = Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr)
    for block in range(tl.program_id(0), plane_blocks, tl.num_programs(0)):
        planes = block_of_planes(block, samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
        mean, m2 = _moments(
            inputs, planes, 0, tiles,
            ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
        rstd = tl.rsqrt(m2 / (tl.zeros((), COMPUTE) + planes.pixels) + tl.full((), EPS, COMPUTE))
        scale = per_plane(scale_ptr, scale_stride, planes, COMPUTE)
        shift = per_plane(shift_ptr, shift_stride, planes, COMPUTE)
        _normalise(
            inputs, y_ptr, planes, 0, tiles, mean, scale * rstd, shift,
            ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
        )  # fmt: skip
        tl.store(mean_ptr + planes.index, mean, mask=planes.exists)
        tl.store(rstd_ptr + planes.index, rstd, mask=planes.exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles"])
def _span_moments_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, means_ptr, m2s_ptr,
    samples, minor_groups, major, tiles,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The moments of one span of tiles: partials [planes, SPANS]."""
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, planes.pixels, BLOCK_PIXELS)
    mean, m2 = _moments(
        Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr), planes, start, stop,
        ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
    )  # fmt: skip
    tl.store(means_ptr + planes.index * SPANS + span, mean, mask=planes.exists)
    tl.store(m2s_ptr + planes.index * SPANS + span, m2, mask=planes.exists)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "tiles", "scale_stride", "shift_stride"])
def _span_normalise_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, means_ptr, m2s_ptr, y_ptr, mean_ptr, rstd_ptr,
    samples, minor_groups, major, tiles, scale_stride, shift_stride,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """Combines the moments of all spans and writes the output of one."""
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    others = tl.arange(0, SPANS_POWER_OF_2)
    partial = planes.index[:, None] * SPANS + others[None, :]
    mask = planes.exists[:, None] & (others < SPANS)[None, :]
    means = tl.load(means_ptr + partial, mask=mask, other=0.0)
    m2s = tl.load(m2s_ptr + partial, mask=mask, other=0.0)
    span_pixels = tiles * BLOCK_PIXELS
    counts = tl.zeros((), COMPUTE) + tl.maximum(tl.minimum(planes.pixels - others * span_pixels, span_pixels), 0)
    count = tl.zeros((), COMPUTE) + planes.pixels
    mean = tl.sum(means * counts[None, :], axis=1) / count
    delta = means - mean[:, None]
    m2 = tl.sum(m2s + delta * delta * counts[None, :], axis=1)
    rstd = tl.rsqrt(m2 / count + tl.full((), EPS, COMPUTE))
    scale = per_plane(scale_ptr, scale_stride, planes, COMPUTE)
    shift = per_plane(shift_ptr, shift_stride, planes, COMPUTE)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, planes.pixels, BLOCK_PIXELS)
    _normalise(
        Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr), y_ptr, planes, start, stop, mean, scale * rstd, shift,
        ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS,
    )  # fmt: skip
    if span == 0:
        tl.store(mean_ptr + planes.index, mean, mask=planes.exists)
        tl.store(rstd_ptr + planes.index, rstd, mask=planes.exists)


def launch_forward(
    x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor | None, seed: Tensor | None, strength: Tensor | None,
    bias: Tensor | None, act: str, slope: float, order: str, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, and mean and r of each plane [N, C]."""
    x = dense(x)
    y = torch.empty_like(x)
    mean, rstd = new_statistic(x), new_statistic(x)
    outputs = y, mean, rstd
    if y.numel() == 0:
        return outputs
    launch = EpilogueLaunch(x, strength, act, slope, order, tensors=1)
    tiling = launch.tiling
    before = x, noise_rows(x, noise, seed), contiguous(strength), contiguous(bias)
    style = rows(scale), rows(shift)
    strides = tuple(t.stride(0) for t in style)
    if tiling.resident:
        _forward_kernel[tiling.grid](*before, *style, *outputs, *launch.extents, *strides, EPS=eps, **launch.constants)
    elif tiling.spans == 1:
        _looping_forward_kernel[tiling.grid](
            *before, *style, *outputs, *launch.extents, tiling.plane_blocks, tiling.tiles, *strides,
            EPS=eps, **launch.constants,
        )  # fmt: skip
    else:
        means, m2s = launch.new_partials(x), launch.new_partials(x)
        _span_moments_kernel[tiling.grid](
            *before, means, m2s, *launch.extents, tiling.tiles, SPANS=tiling.spans, **launch.constants
        )
        _span_normalise_kernel[tiling.grid](
            *before, *style, means, m2s, *outputs, *launch.extents, tiling.tiles, *strides,
            EPS=eps, SPANS=tiling.spans, SPANS_POWER_OF_2=next_power_of_2(tiling.spans), **launch.constants,
        )  # fmt: skip
    return outputs
