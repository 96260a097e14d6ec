"""The forward pass: y = act(scale * (z - mean) * r + shift), with z of tile.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import dense
from fastgan_kernels.ops.norm_act.tile import (
    EXTENTS,
    NOTHING,
    TILES,
    Before,
    NormLaunch,
    Operands,
    affine_of,
    affine_rows,
    channels_of_program,
    folded,
    input_tile,
    last_program_first,
    norm_launch,
    over_pixels,
    statistics_of,
    sum_of_channels,
    tile_of_channels,
)
from fastgan_kernels.precision import compute_dtype


@triton.jit
def _store_statistics(
    mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, block, mean, var,
    MOMENTUM: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Stores statistics for the backward pass, and updates the running ones, as in torch with the unbiased variance."""
    tl.store(mean_ptr + block.index, mean, mask=block.exists)
    tl.store(var_ptr + block.index, var, mask=block.exists)
    if running_mean_ptr is not None:
        share = 1 / tl.load(batches_ptr).to(COMPUTE) if MOMENTUM is None else tl.full((), MOMENTUM, COMPUTE)
        before = tl.load(running_mean_ptr + block.channel, mask=block.exists, other=0.0).to(COMPUTE)
        after = before + share * (mean - before)
        tl.store(running_mean_ptr + block.channel, after.to(running_mean_ptr.dtype.element_ty), mask=block.exists)
        before = tl.load(running_var_ptr + block.channel, mask=block.exists, other=0.0).to(COMPUTE)
        after = before + share * (var * (block.count / (block.count - 1)) - before)
        tl.store(running_var_ptr + block.channel, after.to(running_var_ptr.dtype.element_ty), mask=block.exists)
        if MOMENTUM is not None and batches_ptr is not None and tl.program_id(0) == 0:
            tl.store(batches_ptr, tl.load(batches_ptr) + 1)


@triton.jit
def _output(
    deviation, rstd, operands, block, tile, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    scale, shift = affine_of(operands, block, tile, PER_SAMPLE)
    return activate(deviation * over_pixels(scale * rstd) + over_pixels(shift), ACT, SLOPE, COMPUTE)


@triton.jit(do_not_specialize=EXTENTS)
def _forward_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr,
    y_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr,
    samples, minor_groups, major, scale_stride, shift_stride,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Channels that fit into registers: read once, written once."""
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, tl.program_id(0), STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN,
        BLOCK_CHANNELS,
    )  # fmt: skip
    tile = tile_of_channels(block, 0, 1, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
    z, _ = input_tile(operands, block, tile, ACT_BEFORE, SLOPE, COMPUTE)
    if noise_ptr is not None or bias_ptr is not None:
        z = tl.where(tile.mask, z, 0.0)
    mean = sum_of_channels(z) / block.count
    deviation = tl.where(tile.mask, z - over_pixels(mean[:, None]), 0.0)
    var = sum_of_channels(deviation * deviation) / block.count
    rstd = tl.rsqrt(var + tl.full((), EPS, COMPUTE))[:, None]
    y = _output(deviation, rstd, operands, block, tile, ACT, SLOPE, PER_SAMPLE, COMPUTE)
    tl.store(y_ptr + tile.offset, y.to(y_ptr.dtype.element_ty), mask=tile.mask)
    _store_statistics(
        mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, block, mean, var, MOMENTUM, COMPUTE
    )


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _moments_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, partials_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, spans, statistics,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of one span, [2, statistics, spans], and its number of elements, [spans].

    Deviations are from the mean m of the span's first tile. Over the T tiles the sum of their squares is
    M2 + n (mean - m)^2, at most (1 + T) M2, so the subtraction that gives M2 loses little precision.
    """
    program, span = tl.program_id(0), tl.program_id(1)
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, None, None, 0, 0)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    start = span * tiles
    tile = tile_of_channels(block, start, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
    count = _elements(block, start, pixel_tiles, COMPUTE, BLOCK_SAMPLES, BLOCK_PIXELS)
    z, _ = input_tile(operands, block, tile, ACT_BEFORE, SLOPE, COMPUTE)
    m = (sum_of_channels(tl.where(tile.mask, z, 0.0)) / count)[:, None]
    deviation = tl.where(tile.mask, z - over_pixels(m), 0.0)
    sums, squares = folded(deviation, FOLD), folded(deviation * deviation, FOLD)
    for i in range(start + 1, tl.minimum(start + tiles, all_tiles)):
        tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        z, _ = input_tile(operands, block, tile, ACT_BEFORE, SLOPE, COMPUTE)
        deviation = tl.where(tile.mask, z - over_pixels(m), 0.0)
        sums += folded(deviation, FOLD)
        squares += folded(deviation * deviation, FOLD)
        count += _elements(block, i, pixel_tiles, COMPUTE, BLOCK_SAMPLES, BLOCK_PIXELS)
    sum_ = tl.sum(sums, axis=1)
    m2 = tl.sum(squares, axis=1) - sum_ * sum_ / count
    partial = block.index * spans + span
    tl.store(partials_ptr + partial, tl.sum(m, axis=1) + sum_ / count, mask=block.exists)
    # Rounding must not leave a variance below 0; NaN passes.
    tl.store(partials_ptr + statistics.to(tl.int64) * spans + partial, tl.where(m2 < 0, 0.0, m2), mask=block.exists)
    if tl.program_id(0) == 0:
        tl.store(partials_ptr + 2 * statistics.to(tl.int64) * spans + span, count)


@triton.jit
def _elements(block, tile, pixel_tiles, COMPUTE: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr):
    """The number of elements per channel in a tile."""
    of_samples = tl.minimum(block.samples - tile // pixel_tiles * BLOCK_SAMPLES, BLOCK_SAMPLES)
    of_pixels = tl.minimum(block.pixels - tile % pixel_tiles * BLOCK_PIXELS, BLOCK_PIXELS)
    return (tl.zeros((), COMPUTE) + of_samples) * of_pixels


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _normalize_kernel(
    x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, partials_ptr,
    y_ptr, mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr,
    samples, minor_groups, major, scale_stride, shift_stride, pixel_tiles, all_tiles, tiles, spans, statistics,
    MOMENTUM: tl.constexpr, EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """The output of one span, from the moments of all, which it combines (Chan et al. 1983, eq. 2.1).

    Without partials the mean and the variance are given.
    """
    program, span = last_program_first()
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    if partials_ptr is None:
        mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    else:
        others = tl.arange(0, SPANS_POWER_OF_2)
        partial = block.index[:, None] * spans + others[None, :]
        valid = block.exists[:, None] & (others < spans)[None, :]
        means = tl.load(partials_ptr + partial, mask=valid, other=0.0)
        m2s = tl.load(partials_ptr + statistics.to(tl.int64) * spans + partial, mask=valid, other=0.0)
        counts_ptr = partials_ptr + 2 * statistics.to(tl.int64) * spans
        counts = tl.load(counts_ptr + others, mask=others < spans, other=0.0)[None, :]
        mean = tl.sum(means * counts, axis=1) / block.count
        delta = means - mean[:, None]
        var = tl.sum(m2s + delta * delta * counts, axis=1) / block.count
        if span == 0:
            _store_statistics(
                mean_ptr, var_ptr, running_mean_ptr, running_var_ptr, batches_ptr, block, mean, var,
                MOMENTUM, COMPUTE,
            )  # fmt: skip
        mean = mean[:, None]
        rstd = tl.rsqrt(var + tl.full((), EPS, COMPUTE))[:, None]
    for i in range(tl.minimum((span + 1) * tiles, all_tiles) - 1, span * tiles - 1, -1):
        tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        z, _ = input_tile(operands, block, tile, ACT_BEFORE, SLOPE, COMPUTE)
        deviation = z - over_pixels(mean)
        y = _output(deviation, rstd, operands, block, tile, ACT, SLOPE, PER_SAMPLE, COMPUTE)
        tl.store(y_ptr + tile.offset, y.to(y_ptr.dtype.element_ty), mask=tile.mask)


def launch_forward(
    x: Tensor, scale: Tensor | None, shift: Tensor | None, running_mean: Tensor | None, running_var: Tensor | None,
    batches: Tensor | None, groups: int, momentum: float | None, eps: float, act: str, slope: float,
    before: Before = NOTHING,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The output, and the mean and biased variance of each channel, [groups, C]; running statistics in place."""
    x = dense(x)
    y = torch.empty_like(x)
    mean = x.new_empty(groups, x.shape[1], dtype=compute_dtype(x.dtype))
    var = torch.empty_like(mean)
    if x.numel() == 0:
        if batches is not None and momentum is not None:
            batches += 1
        return y, mean.zero_(), var.zero_()
    affine, strides = affine_rows(scale, shift)
    launch = norm_launch(x, groups, affine, before, act, slope, eps, reduces=True, tensors=1)
    operands = x, *before.operands
    outputs = y, mean, var, running_mean, running_var, batches
    *moments, normalize = _launches(launch, strides, momentum)
    if moments:
        partials = launch.new_partials(x, 2 * mean.numel() + 1)
        moments[0](*operands, partials)
        normalize(*operands, *affine, partials, *outputs)
    else:
        normalize(*operands, *affine, *outputs)
    if running_mean is not None:
        running = running_mean, running_var, batches
        torch.autograd.graph.increment_version([t for t in running if t is not None])
    return y, mean, var


@decided_once
def _launches(launch: NormLaunch, strides: tuple[int, ...], momentum: float | None) -> tuple[Launch, ...]:
    """The launch of channels that fit into registers; otherwise those of the moments and of the normalization."""
    tiling, numbers = launch.tiling, (*launch.extents, *strides)
    if tiling.resident:
        return (Launch(_forward_kernel, tiling.grid, numbers, MOMENTUM=momentum, **launch.constants),)
    moments = Launch(
        _moments_kernel, tiling.grid, (*launch.extents, *launch.of_tiles), **launch.constants, **launch.folds
    )
    normalize = Launch(
        _normalize_kernel, tiling.grid, (*numbers, *launch.of_tiles),
        MOMENTUM=momentum, **launch.constants, **launch.of_spans,
    )  # fmt: skip
    return moments, normalize


def launch_fixed(
    x: Tensor, mean: Tensor, var: Tensor, scale: Tensor | None, shift: Tensor | None, eps: float, act: str, slope: float
) -> Tensor:
    """The output with given statistics [C]."""
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    affine, strides = affine_rows(scale, shift)
    launch = norm_launch(x, 1, affine, NOTHING, act, slope, eps, reduces=False, tensors=1)
    _fixed_launch(launch, strides)(
        x, None, None, None, *affine, None, y, mean.contiguous(), var.contiguous(), None, None, None
    )
    return y


@decided_once
def _fixed_launch(launch: NormLaunch, strides: tuple[int, ...]) -> Launch:
    return Launch(
        _normalize_kernel, launch.tiling.grid, (*launch.extents, *strides, *launch.of_tiles),
        MOMENTUM=None, **launch.constants, **launch.of_spans,
    )  # fmt: skip
