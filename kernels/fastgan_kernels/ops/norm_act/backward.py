"""The first gradient, in one pass over memory or two; activations are computed again from x and the statistics.

With z of tile.py, xh = (z - mean) * r, p = scale * xh + shift, g the incoming gradient dy times the derivative of the
activation after, h = scale * g, M the mean over the elements of a statistic, and P(t) = t - M(t) - xh * M(t * xh),

    dz = r * P(h),    dscale = sum(g * xh),    dshift = sum(g).

dx is dz times the derivative of the activation before; dbias and dstrength are sums of dx and dx * noise. Where the
statistics are given, P(t) = t.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import dense, empty_dense
from fastgan_kernels.ops.norm_act.tile import (
    EXTENTS,
    NOTHING,
    TILES,
    Before,
    NormLaunch,
    Operands,
    affine_rows,
    backward_tile,
    channels_of_program,
    folded,
    last_program_first,
    mean_over_spans,
    noise_of,
    norm_launch,
    over_pixels,
    planes_of,
    statistics_of,
    store,
    store_sums,
    sum_of_channels,
    tile_of_channels,
)
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials

# In these kernels an output that is not needed is None.


@triton.jit(do_not_specialize=EXTENTS)
def _backward_kernel(
    dy_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr,
    dx_ptr, dscale_ptr, dshift_ptr, dstrength_ptr, dbias_ptr,
    samples, minor_groups, major, scale_stride, shift_stride,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Channels that fit into registers: dy and x read once, dx written once."""
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, tl.program_id(0), STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN,
        BLOCK_CHANNELS,
    )  # fmt: skip
    mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    tile = tile_of_channels(block, 0, 1, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
    g, deviation, z, _, scale, _ = backward_tile(
        dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE, ACT, SLOPE, PER_SAMPLE, COMPUTE
    )
    sum_g, sum_gxh = tl.sum(g, axis=2), tl.sum(g * deviation, axis=2) * rstd
    if PER_SAMPLE:
        plane = planes_of(block, tile)
        store(dscale_ptr, plane, sum_gxh, tile.there)
        store(dshift_ptr, plane, sum_g, tile.there)
    else:
        store(dscale_ptr, block.index, tl.sum(sum_gxh, axis=1), block.exists)
        store(dshift_ptr, block.index, tl.sum(sum_g, axis=1), block.exists)
    if dx_ptr is not None or dstrength_ptr is not None or dbias_ptr is not None:
        factor = scale * rstd
        if PER_SAMPLE:
            g *= over_pixels(scale)
            sum_g, sum_gxh, factor = scale * sum_g, scale * sum_gxh, rstd
        mean_g, mean_gxh = tl.sum(sum_g, axis=1) / block.count, tl.sum(sum_gxh, axis=1) / block.count
        dx = g - over_pixels(mean_g[:, None]) - deviation * over_pixels(mean_gxh[:, None] * rstd)
        dx *= over_pixels(factor)
        dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
        # Computes addresses again, from an index that the compiler does not know to be 0. Otherwise it would keep the
        # pointers and masks of all elements of a thread since the loads, which do not fit into registers.
        tile = tile_of_channels(block, tl.program_id(1), 1, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        if dx_ptr is not None:
            tl.store(dx_ptr + tile.offset, dx.to(dx_ptr.dtype.element_ty), mask=tile.mask)
        if dstrength_ptr is not None or dbias_ptr is not None:
            dx = tl.where(tile.mask, dx, 0.0)
        if dstrength_ptr is not None:
            # Read again, from L1: it would not fit into registers until here.
            dstrength = sum_of_channels(dx * noise_of(operands, tile, COMPUTE))
            tl.store(dstrength_ptr + block.index, dstrength, mask=block.exists)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + block.index, sum_of_channels(dx), mask=block.exists)


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _sums_kernel(
    dy_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr,
    sums_ptr, dscale_ptr, dshift_ptr,
    samples, minor_groups, major, scale_stride, shift_stride, pixel_tiles, all_tiles, tiles, spans, statistics,
    EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    """The sums of g and g * xh of one span: partials [2, statistics, spans].

    With a scale for each sample they are the sums of h and h * xh, and parts of dscale and dshift [planes, pixel_tiles]
    are written too.
    """
    program, span = tl.program_id(0), tl.program_id(1)
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    lanes_g = tl.zeros([BLOCK_CHANNELS, BLOCK_SAMPLES * BLOCK_PIXELS // FOLD], COMPUTE)
    lanes_gxh = lanes_g
    for i in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        g, deviation, _, _, scale, _ = backward_tile(
            dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE, ACT, SLOPE, PER_SAMPLE, COMPUTE
        )
        if PER_SAMPLE:
            plane = planes_of(block, tile) * pixel_tiles + i % pixel_tiles
            store(dscale_ptr, plane, tl.sum(g * deviation, axis=2) * rstd, tile.there)
            store(dshift_ptr, plane, tl.sum(g, axis=2), tile.there)
            g *= over_pixels(scale)
        lanes_g += folded(g, FOLD)
        lanes_gxh += folded(g * deviation, FOLD)
    if sums_ptr is not None:
        store_sums(sums_ptr, 0, statistics, spans, span, block, lanes_g)
        store_sums(sums_ptr, 1, statistics, spans, span, block, lanes_gxh * rstd)


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _project_kernel(
    dy_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr, sums_ptr,
    dx_ptr, dscale_ptr, dshift_ptr, dstrength_ptr, dbias_ptr,
    samples, minor_groups, major, scale_stride, shift_stride, pixel_tiles, all_tiles, tiles, spans, statistics,
    GIVEN: tl.constexpr, EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    FOLD: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """dx of one span, and the sums of it and of dx * noise, [statistics, spans], from the sums of all spans.

    The first span writes dscale and dshift. GIVEN: with given statistics.
    """
    program, span = last_program_first()
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    # Of g, or of h where the samples have scales of their own.
    mean_g = tl.zeros([BLOCK_CHANNELS, 1], COMPUTE)
    mean_gxh = mean_g
    if sums_ptr is not None:
        mean_g = mean_over_spans(sums_ptr, 0, statistics, spans, block, SPANS_POWER_OF_2)
        mean_gxh = mean_over_spans(sums_ptr, 1, statistics, spans, block, SPANS_POWER_OF_2)
        if not PER_SAMPLE and span == 0:
            store(dscale_ptr, block.index, tl.sum(mean_gxh, axis=1) * block.count, block.exists)
            store(dshift_ptr, block.index, tl.sum(mean_g, axis=1) * block.count, block.exists)
    if dx_ptr is not None or dstrength_ptr is not None or dbias_ptr is not None:
        if dstrength_ptr is not None:
            lanes_noise = tl.zeros([BLOCK_CHANNELS, BLOCK_SAMPLES * BLOCK_PIXELS // FOLD], COMPUTE)
        if dbias_ptr is not None:
            lanes = tl.zeros([BLOCK_CHANNELS, BLOCK_SAMPLES * BLOCK_PIXELS // FOLD], COMPUTE)
        for i in range(tl.minimum((span + 1) * tiles, all_tiles) - 1, span * tiles - 1, -1):
            tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
            g, deviation, z, _, scale, noise = backward_tile(
                dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE, ACT, SLOPE, PER_SAMPLE, COMPUTE
            )
            factor = scale * rstd
            if PER_SAMPLE:
                g *= over_pixels(scale)
                factor = rstd
            if not GIVEN:
                g -= over_pixels(mean_g) + deviation * over_pixels(mean_gxh * rstd)
            dx = g * over_pixels(factor)
            dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
            if dx_ptr is not None:
                tl.store(dx_ptr + tile.offset, dx.to(dx_ptr.dtype.element_ty), mask=tile.mask)
            if dstrength_ptr is not None or dbias_ptr is not None:
                dx = tl.where(tile.mask, dx, 0.0)
            if dstrength_ptr is not None:
                lanes_noise += folded(dx * noise, FOLD)
            if dbias_ptr is not None:
                lanes += folded(dx, FOLD)
        if dstrength_ptr is not None:
            store_sums(dstrength_ptr, 0, statistics, spans, span, block, lanes_noise)
        if dbias_ptr is not None:
            store_sums(dbias_ptr, 0, statistics, spans, span, block, lanes)


def launch_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, scale: Tensor | None, shift: Tensor | None,
    given: bool, eps: float, act: str, slope: float, needs: list[bool], before: Before = NOTHING, *,
    wide: bool = False,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of x, scale, shift, and, with five ``needs``, of strength and bias, where they are needed.

    With ``wide`` that of x is in the type of the arithmetic.
    """
    x = dense(x)
    dtype = compute_dtype(x.dtype)
    needs_x, *needs_affine = needs[:3]
    needs_before = needs[3:]
    dx = torch.empty_like(x, dtype=dtype if wide else x.dtype) if needs_x else None
    # A shift that is not needed to compute the gradients may be absent; its own gradient has the shape of the scale.
    like = scale, scale if shift is None else shift, before.strength, before.bias
    if x.numel() == 0:
        zeros = (None if t is None else t.new_zeros(t.shape, dtype=dtype) for t in like)
        return dx, *(zero if need else None for zero, need in zip(zeros, needs[1:], strict=False))
    groups = mean.shape[0] if mean.dim() == 2 else 1
    affine, strides = affine_rows(scale, shift)
    launch = norm_launch(x, groups, affine, before, act, slope, eps, reduces=not given, tensors=2, wide=wide)
    tiling = launch.tiling
    operands = dense(dy, like=x), x, *before.operands, mean.contiguous(), var.contiguous(), *affine
    shape = (groups, x.shape[1], 1)
    if launch.per_sample:
        shape = (1, x.shape[0] * x.shape[1], 1 if tiling.resident else tiling.pixel_tiles)
    of_affine = [x.new_empty(shape, dtype=dtype) if need else None for need in needs_affine]
    of_before = [launch.new_partials(x, groups, x.shape[1]) if need else None for need in needs_before]
    outputs = dx, *of_affine, *(of_before or (None, None))
    if tiling.resident:
        _resident_launch(launch, strides)(*operands, *outputs)
    else:
        writes = needs_x or any(needs_before)
        reduces = (writes and not given) or (not launch.per_sample and any(needs_affine))
        sums = launch.new_partials(x, 2, mean.numel()) if reduces else None
        add_up, project = _span_launches(launch, strides, given, writes)
        if reduces or any(needs_affine):
            add_up(*operands, sums, *(of_affine if launch.per_sample else (None, None)))
        if writes or not launch.per_sample:
            project(*operands, sums, *outputs)
    return dx, *(t if t is None else summed(t, of) for t, of in zip((*of_affine, *of_before), like, strict=False))


@decided_once
def _resident_launch(launch: NormLaunch, strides: tuple[int, ...]) -> Launch:
    return Launch(_backward_kernel, launch.tiling.grid, (*launch.extents, *strides), **launch.constants)


@decided_once
def _span_launches(launch: NormLaunch, strides: tuple[int, ...], given: bool, writes: bool) -> tuple[Launch, Launch]:
    """Those of the sums, and of the projection, which without ``writes`` only adds up the sums of all spans."""
    tiling, geometry = launch.tiling, (*launch.extents, *strides, *launch.of_tiles)
    constants = launch.constants | launch.folds
    return Launch(_sums_kernel, tiling.grid, geometry, **constants), Launch(
        _project_kernel, tiling.grid if writes else (tiling.channel_programs, 1), geometry,
        GIVEN=given, **constants, **launch.of_spans,
    )  # fmt: skip


def summed(partials: Tensor, like: Tensor) -> Tensor:
    """The gradient of ``like`` from its partials, [A, its channels or planes, B]."""
    if like.dim() == 0:
        partials = sum_partials(partials).view(1, 1, -1)
    return (partials if partials.numel() == like.numel() else sum_partials(partials)).view(like.shape)


def new_gradients(x: Tensor, *operands: Tensor | None) -> tuple[Tensor, ...]:
    """Uninitialized gradients; those of operands in the type of the arithmetic, empty if these are absent."""
    return empty_dense(x), *(x.new_empty(0 if t is None else t.shape, dtype=compute_dtype(x.dtype)) for t in operands)
