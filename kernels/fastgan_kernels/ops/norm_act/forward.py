"""The forward pass of norm_act: y = act(weight * (x - mean) * r + bias)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate
from fastgan_kernels.layout import dense, extents
from fastgan_kernels.ops.norm_act.tile import (
    NormLaunch,
    channels_of_program,
    normalized_tile,
    of_planes,
    over_pixels,
    statistics_of,
    sum_of_channels,
    tile_of_channels,
)
from fastgan_kernels.precision import compute_dtype


@triton.jit
def _store_statistics(
    mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, index, channel, exists, mean, var, count,
    MOMENTUM: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Stores statistics for the backward pass, and updates the running ones, as in torch with the unbiased variance."""
    tl.store(mean_ptr + index, mean, mask=exists)
    tl.store(var_ptr + index, var, mask=exists)
    if running_mean_ptr is not None:
        share = 1 / tl.load(batches_ptr).to(COMPUTE) if MOMENTUM is None else tl.full((), MOMENTUM, COMPUTE)
        before = tl.load(running_mean_ptr + channel, mask=exists, other=0.0).to(COMPUTE)
        after = before + share * (mean - before)
        tl.store(running_mean_ptr + channel, after.to(running_mean_ptr.dtype.element_ty), mask=exists)
        before = tl.load(running_var_ptr + channel, mask=exists, other=0.0).to(COMPUTE)
        after = before + share * (var * (count / (count - 1)) - before)
        tl.store(running_var_ptr + channel, after.to(running_var_ptr.dtype.element_ty), mask=exists)
        if MOMENTUM is not None and batches_ptr is not None and tl.program_id(0) == 0:
            tl.store(batches_ptr, tl.load(batches_ptr) + 1)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "weight_stride", "bias_stride"])
def _forward_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr,
    samples, minor_groups, major, weight_stride, bias_stride,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Channels that fit into registers: read once, written once."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    offset, mask, sample, there = tile_of_channels(
        0, group, channel, samples, channels, pixels, 1, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
    )
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    count = (tl.zeros((), COMPUTE) + samples) * pixels
    mean = sum_of_channels(x) / count
    deviation = tl.where(mask, x - over_pixels(mean[:, None]), 0.0)
    var = sum_of_channels(deviation * deviation) / count
    rstd = tl.rsqrt(var + tl.full((), EPS, COMPUTE))
    weight = of_planes(weight_ptr, weight_stride, sample, channel, channels, there, 1.0, PER_SAMPLE, COMPUTE)
    bias = of_planes(bias_ptr, bias_stride, sample, channel, channels, there, 0.0, PER_SAMPLE, COMPUTE)
    y = activate(deviation * over_pixels(weight * rstd[:, None]) + over_pixels(bias), ACT, SLOPE, COMPUTE)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)
    _store_statistics(
        mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, index, channel, channel < channels,
        mean, var, count, MOMENTUM, COMPUTE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles", "all_tiles", "tiles", "statistics"])
def _moments_kernel(
    x_ptr, partials_ptr, samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics,
    EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of one span, [2, statistics, SPANS], and its number of elements, [SPANS].

    Deviations are from the mean m of the span's first tile. Over the T tiles the sum of their squares is
    M2 + n (mean - m)^2, at most (1 + T) M2, so the subtraction that gives M2 loses little precision.
    """
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    span = tl.program_id(1)
    start = span * tiles
    offset, mask, _, _ = tile_of_channels(
        start, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
    )
    count = _elements(start, samples, pixels, pixel_tiles, COMPUTE, BLOCK_SAMPLES, BLOCK_PIXELS)
    x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    m = (sum_of_channels(x) / count)[:, None]
    deviation = tl.where(mask, x - over_pixels(m), 0.0)
    sums, squares = deviation, deviation * deviation
    for tile in range(start + 1, tl.minimum(start + tiles, all_tiles)):
        offset, mask, _, _ = tile_of_channels(
            tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
        )
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        deviation = tl.where(mask, x - over_pixels(m), 0.0)
        sums += deviation
        squares += deviation * deviation
        count += _elements(tile, samples, pixels, pixel_tiles, COMPUTE, BLOCK_SAMPLES, BLOCK_PIXELS)
    sum_ = sum_of_channels(sums)
    m2 = sum_of_channels(squares) - sum_ * sum_ / count
    partial = index * SPANS + span
    tl.store(partials_ptr + partial, tl.sum(m, axis=1) + sum_ / count, mask=exists)
    # Rounding must not leave a variance below 0; NaN passes.
    tl.store(partials_ptr + statistics * SPANS + partial, tl.where(m2 < 0, 0.0, m2), mask=exists)
    if tl.program_id(0) == 0:
        tl.store(partials_ptr + 2 * statistics * SPANS + span, count)


@triton.jit
def _elements(
    tile, samples, pixels, pixel_tiles, COMPUTE: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    """The number of elements per channel in a tile."""
    of_samples = tl.minimum(samples - tile // pixel_tiles * BLOCK_SAMPLES, BLOCK_SAMPLES)
    return (tl.zeros((), COMPUTE) + of_samples) * tl.minimum(pixels - tile % pixel_tiles * BLOCK_PIXELS, BLOCK_PIXELS)


@triton.jit(
    do_not_specialize=[
        *("samples", "minor_groups", "major", "pixel_tiles", "all_tiles", "tiles", "statistics"),
        *("weight_stride", "bias_stride"),
    ]
)
def _normalize_kernel(
    x_ptr, weight_ptr, bias_ptr, partials_ptr, y_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics, weight_stride, bias_stride,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """The output of one span, from the moments of all, which it combines (Chan et al. 1983, eq. 2.1).

    Without partials the mean and the variance are given.
    """
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    span = tl.program_id(1)
    if partials_ptr is None:
        mean, rstd = statistics_of(mean_ptr, var_ptr, index, exists, EPS, COMPUTE)
    else:
        others = tl.arange(0, SPANS_POWER_OF_2)
        partial = index[:, None] * SPANS + others[None, :]
        valid = exists[:, None] & (others < SPANS)[None, :]
        means = tl.load(partials_ptr + partial, mask=valid, other=0.0)
        m2s = tl.load(partials_ptr + statistics * SPANS + partial, mask=valid, other=0.0)
        counts = tl.load(partials_ptr + 2 * statistics * SPANS + others, mask=others < SPANS, other=0.0)[None, :]
        count = (tl.zeros((), COMPUTE) + samples) * pixels
        mean = tl.sum(means * counts, axis=1) / count
        delta = means - mean[:, None]
        var = tl.sum(m2s + delta * delta * counts, axis=1) / count
        if span == 0:
            _store_statistics(
                mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, index, channel, exists,
                mean, var, count, MOMENTUM, COMPUTE,
            )  # fmt: skip
        mean = mean[:, None]
        rstd = tl.rsqrt(var + tl.full((), EPS, COMPUTE))[:, None]
    for tile in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        offset, mask, sample, there = tile_of_channels(
            tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
        )
        _, _, p = normalized_tile(
            x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride, offset, mask, sample, channel, channels, there,
            mean, rstd, PER_SAMPLE, COMPUTE,
        )  # fmt: skip
        tl.store(y_ptr + offset, activate(p, ACT, SLOPE, COMPUTE).to(y_ptr.dtype.element_ty), mask=mask)


def launch_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    batches: Tensor | None, groups: int, momentum: float | None, eps: float, act: str, slope: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, and the mean and biased variance of each channel, [groups, C]; running statistics in place."""
    x = dense(x)
    y = torch.empty_like(x)
    mean, var = (x.new_empty(groups, x.shape[1], dtype=compute_dtype(x.dtype)) for _ in range(2))
    if x.numel() == 0:
        if batches is not None and momentum is not None:
            batches += 1
        return y, mean.zero_(), var.zero_()
    (weight, bias), strides = affine_rows(weight, bias)
    launch = NormLaunch(x, groups, is_per_sample(weight, bias), act, slope, eps, reduces=True)
    tiling = launch.tiling
    outputs = y, mean, var, running_mean, running_var, batches
    if tiling.resident:
        _forward_kernel[tiling.grid](
            x, weight, bias, *outputs, *launch.extents, *strides, MOMENTUM=momentum, **launch.constants
        )
    else:
        partials = launch.new_partials(x, 2 * mean.numel() + 1)
        geometry = *launch.extents, *launch.of_tiles, mean.numel()
        _moments_kernel[tiling.grid](x, partials, *geometry, SPANS=tiling.spans, **launch.constants)
        _normalize_kernel[tiling.grid](
            x, weight, bias, partials, *outputs, *geometry, *strides,
            MOMENTUM=momentum, **launch.constants, **launch.of_spans,
        )  # fmt: skip
    running = [t for t in (running_mean, running_var, batches) if t is not None]
    if running:
        torch.autograd.graph.increment_version(running)
    return y, mean, var


def launch_fixed(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, act: str, slope: float
) -> Tensor:
    """The output with given statistics [C]."""
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    (weight, bias), strides = affine_rows(weight, bias)
    launch = NormLaunch(x, 1, is_per_sample(weight, bias), act, slope, eps, reduces=False)
    _normalize_kernel[launch.tiling.grid](
        x, weight, bias, None, y, mean.contiguous(), var.contiguous(), None, None, None,
        *launch.extents, *launch.of_tiles, mean.numel(), *strides, MOMENTUM=None, **launch.constants, **launch.of_spans,
    )  # fmt: skip
    return y


def affine_rows(*tensors: Tensor | None) -> tuple[list[Tensor | None], list[int]]:
    """Scale and shift with neighboring channels, and their row strides (0 for [C]); rows may lie apart."""
    dense_ = [t if t is None or t.stride(-1) == 1 else t.contiguous() for t in tensors]
    return dense_, [t.stride(0) if t is not None and t.dim() == 2 else 0 for t in dense_]


def is_per_sample(*tensors: Tensor | None) -> bool:
    return any(t is not None and t.dim() == 2 for t in tensors)
