"""The first gradient of norm_act, and the second order; the activation is computed again from x and the statistics.

With p = weight * xh + bias, xh = (x - mean) * r, g the incoming gradient dy where the activation lets it through, h =
weight * g, M the mean over the elements of a statistic, and P(t) = t - M(t) - xh * M(t * xh),

    dx = r * P(h),    dweight = sum(g * xh),    dbias = sum(g).

For cotangents v of dx, a of dweight and b of dbias, with G = a * g - r * (h * M(v * xh) + v * M(h * xh)),

    ddy = weight * r * P(v) + a * xh + b, through the activation,
    ddx = r * (P(G) - r * xh * M(v * P(h))),    ddweight = r * sum(g * P(v)).

Where the statistics are given, P(t) = t, G = a * g, and nothing comes by way of r.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.layout import dense, empty_dense, extents
from fastgan_kernels.ops.norm_act.forward import affine_rows, is_per_sample
from fastgan_kernels.ops.norm_act.tile import (
    NormLaunch,
    backward_tile,
    channels_of_program,
    means_over_spans,
    of_planes,
    over_pixels,
    statistics_of,
    sum_of_channels,
    tile_of_channels,
)
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials

# In these kernels an output that is not needed is None.

_EXTENTS = ["samples", "minor_groups", "major", "weight_stride", "bias_stride"]
_TILES = ["pixel_tiles", "all_tiles", "tiles", "statistics"]


@triton.jit(do_not_specialize=_EXTENTS)
def _backward_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    samples, minor_groups, major, weight_stride, bias_stride,
    EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Channels that fit into registers: dy and x read once, dx written once."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    mean, rstd = statistics_of(mean_ptr, var_ptr, index, channel < channels, EPS, COMPUTE)
    offset, mask, sample, there = tile_of_channels(
        0, group, channel, samples, channels, pixels, 1, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
    )
    g, xh, _, weight = backward_tile(
        dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride, offset, mask, sample, channel, channels, there,
        mean, rstd, ACT, SLOPE, PER_SAMPLE, COMPUTE,
    )  # fmt: skip
    sum_g, sum_gxh = tl.sum(g, axis=2), tl.sum(g * xh, axis=2)
    if PER_SAMPLE:
        plane = sample[None, :] * channels + channel[:, None]
        _store(dweight_ptr, plane, sum_gxh, there)
        _store(dbias_ptr, plane, sum_g, there)
    else:
        _store(dweight_ptr, index, tl.sum(sum_gxh, axis=1), channel < channels)
        _store(dbias_ptr, index, tl.sum(sum_g, axis=1), channel < channels)
    if dx_ptr is not None:
        count = (tl.zeros((), COMPUTE) + samples) * pixels
        mean_h = (tl.sum(weight * sum_g, axis=1) / count)[:, None]
        mean_hxh = (tl.sum(weight * sum_gxh, axis=1) / count)[:, None]
        dx = g * over_pixels(weight * rstd) - over_pixels(mean_h * rstd) - xh * over_pixels(mean_hxh * rstd)
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _store(ptr, offset, value, mask):
    if ptr is not None:
        tl.store(ptr + offset, value, mask=mask)


@triton.jit(do_not_specialize=[*_EXTENTS, *_TILES])
def _sums_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, sums_ptr, dweight_ptr, dbias_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics, weight_stride, bias_stride,
    EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The sums of g and g * xh of one span: partials [2, statistics, SPANS].

    With a scale per sample they are the sums of h and h * xh, and parts of dweight and dbias [planes, pixel_tiles] are
    written too.
    """
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    mean, rstd = statistics_of(mean_ptr, var_ptr, index, exists, EPS, COMPUTE)
    span = tl.program_id(1)
    total_g = tl.zeros([BLOCK_CHANNELS], COMPUTE)
    total_gxh = tl.zeros([BLOCK_CHANNELS], COMPUTE)
    for tile in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        offset, mask, sample, there = tile_of_channels(
            tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
        )
        g, xh, _, weight = backward_tile(
            dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride,
            offset, mask, sample, channel, channels, there, mean, rstd, ACT, SLOPE, PER_SAMPLE, COMPUTE,
        )  # fmt: skip
        sum_g, sum_gxh = tl.sum(g, axis=2), tl.sum(g * xh, axis=2)
        if PER_SAMPLE:
            plane = (sample[None, :] * channels + channel[:, None]) * pixel_tiles + tile % pixel_tiles
            _store(dweight_ptr, plane, sum_gxh, there)
            _store(dbias_ptr, plane, sum_g, there)
            sum_g, sum_gxh = weight * sum_g, weight * sum_gxh
        total_g += tl.sum(sum_g, axis=1)
        total_gxh += tl.sum(sum_gxh, axis=1)
    if sums_ptr is not None:
        tl.store(sums_ptr + index * SPANS + span, total_g, mask=exists)
        tl.store(sums_ptr + (statistics + index) * SPANS + span, total_gxh, mask=exists)


@triton.jit(do_not_specialize=[*_EXTENTS, *_TILES])
def _project_kernel(
    dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, sums_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics, weight_stride, bias_stride,
    GIVEN: tl.constexpr, EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """dx of one span, from the sums of all; the first span writes dweight and dbias. GIVEN: with given statistics."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    mean, rstd = statistics_of(mean_ptr, var_ptr, index, exists, EPS, COMPUTE)
    span = tl.program_id(1)
    mean_g = tl.zeros([BLOCK_CHANNELS, 1], COMPUTE)
    mean_gxh = mean_g
    if sums_ptr is not None:
        count = (tl.zeros((), COMPUTE) + samples) * pixels
        mean_g = means_over_spans(sums_ptr, 0, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        mean_gxh = means_over_spans(sums_ptr, 1, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        if span == 0:
            _store(dweight_ptr, index, tl.sum(mean_gxh, axis=1) * count, exists)
            _store(dbias_ptr, index, tl.sum(mean_g, axis=1) * count, exists)
    if dx_ptr is not None:
        for tile in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
            offset, mask, sample, there = tile_of_channels(
                tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
            )
            g, xh, _, weight = backward_tile(
                dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride,
                offset, mask, sample, channel, channels, there, mean, rstd, ACT, SLOPE, PER_SAMPLE, COMPUTE,
            )  # fmt: skip
            dx = g * over_pixels(weight * rstd)
            if not GIVEN:
                scale = rstd if PER_SAMPLE else rstd * weight
                dx -= over_pixels(mean_g * scale) + xh * over_pixels(mean_gxh * scale)
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=[*_EXTENTS, *_TILES, "a_stride"])
def _second_sums_kernel(
    v_ptr, a_ptr, dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, sums_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics, weight_stride, bias_stride, a_stride,
    EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """Sums of one span: of h, h * xh, a * g, a * g * xh, and, with a v, of v, v * xh, v * h: [7, statistics, SPANS]."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    mean, rstd = statistics_of(mean_ptr, var_ptr, index, exists, EPS, COMPUTE)
    span = tl.program_id(1)
    zeros = tl.zeros([BLOCK_CHANNELS], COMPUTE)
    h, hxh, ag, agxh, only_v, vxh, vh = zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for tile in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        offset, mask, sample, there = tile_of_channels(
            tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
        )
        g, xh, _, weight = backward_tile(
            dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride,
            offset, mask, sample, channel, channels, there, mean, rstd, ACT, SLOPE, PER_SAMPLE, COMPUTE,
        )  # fmt: skip
        a = of_planes(a_ptr, a_stride, sample, channel, channels, there, 0.0, PER_SAMPLE, COMPUTE)
        sum_g, sum_gxh = tl.sum(g, axis=2), tl.sum(g * xh, axis=2)
        h += tl.sum(weight * sum_g, axis=1)
        hxh += tl.sum(weight * sum_gxh, axis=1)
        ag += tl.sum(a * sum_g, axis=1)
        agxh += tl.sum(a * sum_gxh, axis=1)
        if v_ptr is not None:
            v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            only_v += sum_of_channels(v)
            vxh += sum_of_channels(v * xh)
            vh += tl.sum(weight * tl.sum(v * g, axis=2), axis=1)
    size = statistics.to(tl.int64) * SPANS
    partial = index * SPANS + span
    tl.store(sums_ptr + partial, h, mask=exists)
    tl.store(sums_ptr + size + partial, hxh, mask=exists)
    tl.store(sums_ptr + 2 * size + partial, ag, mask=exists)
    tl.store(sums_ptr + 3 * size + partial, agxh, mask=exists)
    if v_ptr is not None:
        tl.store(sums_ptr + 4 * size + partial, only_v, mask=exists)
        tl.store(sums_ptr + 5 * size + partial, vxh, mask=exists)
        tl.store(sums_ptr + 6 * size + partial, vh, mask=exists)


@triton.jit(do_not_specialize=[*_EXTENTS, *_TILES, "a_stride", "b_stride"])
def _second_kernel(
    v_ptr, b_ptr, a_ptr, dy_ptr, x_ptr, mean_ptr, var_ptr, weight_ptr, bias_ptr, sums_ptr,
    ddy_ptr, ddx_ptr, ddweight_ptr,
    samples, minor_groups, major, pixel_tiles, all_tiles, tiles, statistics, weight_stride, bias_stride,
    a_stride, b_stride,
    EPS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr,
):  # fmt: skip
    """ddy and ddx of one span, and the partials of ddweight: [statistics, SPANS], or [planes, pixel_tiles].

    Without sums the statistics are given.
    """
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    group, channel, index = channels_of_program(channels, BLOCK_CHANNELS)
    exists = channel < channels
    mean, rstd = statistics_of(mean_ptr, var_ptr, index, exists, EPS, COMPUTE)
    span = tl.program_id(1)
    mean_v = tl.zeros([BLOCK_CHANNELS, 1], COMPUTE)
    mean_vxh, mean_hxh, mean_G, mean_Gxh = mean_v, mean_v, mean_v, mean_v
    if sums_ptr is not None:
        count = (tl.zeros((), COMPUTE) + samples) * pixels
        mean_h = means_over_spans(sums_ptr, 0, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        mean_hxh = means_over_spans(sums_ptr, 1, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        mean_G = means_over_spans(sums_ptr, 2, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        mean_Gxh = means_over_spans(sums_ptr, 3, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
        if v_ptr is not None:
            mean_v = means_over_spans(sums_ptr, 4, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
            mean_vxh = means_over_spans(sums_ptr, 5, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
            mean_vh = means_over_spans(sums_ptr, 6, statistics, index, exists, count, SPANS, SPANS_POWER_OF_2)
            mean_G -= rstd * (mean_h * mean_vxh + mean_v * mean_hxh)
            # Adds the part that comes through r, which is a multiple of xh too.
            mean_Gxh += rstd * (mean_vh - mean_v * mean_h - 3 * mean_vxh * mean_hxh)
    total = tl.zeros([BLOCK_CHANNELS], COMPUTE)
    for tile in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        offset, mask, sample, there = tile_of_channels(
            tile, group, channel, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS
        )
        g, xh, p, weight = backward_tile(
            dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride,
            offset, mask, sample, channel, channels, there, mean, rstd, ACT, SLOPE, PER_SAMPLE, COMPUTE,
        )  # fmt: skip
        a = of_planes(a_ptr, a_stride, sample, channel, channels, there, 0.0, PER_SAMPLE, COMPUTE)
        b = of_planes(b_ptr, b_stride, sample, channel, channels, there, 0.0, PER_SAMPLE, COMPUTE)
        ddy = xh * over_pixels(a) + over_pixels(b)
        ddx = g * over_pixels(a * rstd)
        if v_ptr is not None:
            v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            projected = (v - over_pixels(mean_v) - xh * over_pixels(mean_vxh)) * over_pixels(rstd)
            ddy += projected * over_pixels(weight)
            square = rstd * rstd
            ddx -= g * over_pixels(weight * mean_vxh * square) + v * over_pixels(mean_hxh * square)
            if ddweight_ptr is not None:
                sums = tl.sum(g * projected, axis=2)
                if PER_SAMPLE:
                    plane = (sample[None, :] * channels + channel[:, None]) * pixel_tiles + tile % pixel_tiles
                    tl.store(ddweight_ptr + plane, sums, mask=there)
                else:
                    total += tl.sum(sums, axis=1)
        if ddx_ptr is not None:
            ddx -= over_pixels(mean_G * rstd) + xh * over_pixels(mean_Gxh * rstd)
            tl.store(ddx_ptr + offset, ddx.to(ddx_ptr.dtype.element_ty), mask=mask)
        if ddy_ptr is not None:
            ddy = through_activation(ddy, p, ACT, SLOPE, COMPUTE)
            tl.store(ddy_ptr + offset, ddy.to(ddy_ptr.dtype.element_ty), mask=mask)
    if ddweight_ptr is not None and not PER_SAMPLE:
        tl.store(ddweight_ptr + index * SPANS + span, total, mask=exists)


def launch_backward(
    dy: Tensor, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None,
    given: bool, eps: float, act: str, slope: float, needs: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of x, weight and bias, where they are needed."""
    x = dense(x)
    needs_x, *needs_affine = needs
    dx = torch.empty_like(x) if needs_x else None
    affine = weight, bias
    if x.numel() == 0:
        _, *zeros = new_gradients(x, *affine)
        return dx, *(t.zero_() if need else None for t, need in zip(zeros, needs_affine, strict=True))
    groups, (weight, bias), strides, per_sample = _affine(mean, *affine)
    launch = NormLaunch(x, groups, per_sample, act, slope, eps, reduces=not given)
    tiling = launch.tiling
    operands = dense(dy, like=x), x, mean.contiguous(), var.contiguous(), weight, bias
    if per_sample and not tiling.resident:
        shape = 1, x.shape[0] * x.shape[1], tiling.pixel_tiles
    else:
        shape = (*(x.shape[:2] if per_sample else mean.view(groups, -1).shape), 1)
    # Of dweight and dbias.
    sums = [x.new_empty(shape, dtype=compute_dtype(x.dtype)) if need else None for need in needs_affine]
    if tiling.resident:
        _backward_kernel[tiling.grid](*operands, dx, *sums, *launch.extents, *strides, **launch.constants)
    else:
        geometry = *launch.extents, *launch.of_tiles, mean.numel()
        of_planes, of_channels = (sums, (None, None)) if per_sample else ((None, None), sums)
        reduces = (needs_x and not given) or (not per_sample and any(needs_affine))
        of_spans = launch.new_partials(x, 2 * mean.numel()) if reduces else None
        if reduces or any(needs_affine):
            _sums_kernel[tiling.grid](
                *operands, of_spans, *of_planes, *geometry, *strides, SPANS=tiling.spans, **launch.constants
            )
        if needs_x or not per_sample:
            _project_kernel[tiling.grid if needs_x else (tiling.channel_programs, 1)](
                *operands, of_spans, dx, *of_channels, *geometry, *strides,
                GIVEN=given, **launch.constants, **launch.of_spans,
            )  # fmt: skip
    return dx, *(None if t is None else _summed(t, like) for t, like in zip(sums, affine, strict=True))


def _affine(
    mean: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[int, list[Tensor | None], list[int], bool]:
    """The number of groups; scale, shift and their row strides; and whether they are [N, C]."""
    groups = mean.shape[0] if mean.dim() == 2 else 1
    return groups, *affine_rows(weight, bias), is_per_sample(weight, bias)


def _summed(partials: Tensor, like: Tensor) -> Tensor:
    """The gradient of ``like`` from its partials, [A, its channels or planes, B]."""
    return (partials if partials.numel() == like.numel() else sum_partials(partials)).view(like.shape)


def new_gradients(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialized gradients; those of weight and bias in the type of the arithmetic, empty if these are absent."""
    return empty_dense(x), *(
        x.new_empty(0 if t is None else t.shape, dtype=compute_dtype(x.dtype)) for t in (weight, bias)
    )


def launch_double_backward(
    v: Tensor | None, a: Tensor | None, b: Tensor | None, dy: Tensor, x: Tensor, mean: Tensor, var: Tensor,
    weight: Tensor | None, bias: Tensor | None, given: bool, eps: float, act: str, slope: float, needs: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of dy, x and weight, where they are needed."""
    x = dense(x)
    ddy, ddx = (torch.empty_like(x) if need else None for need in needs[:2])
    # The gradients of weight and bias do not depend on weight.
    needs_weight = needs[2] and v is not None
    if x.numel() == 0 or not needs_weight:
        ddweight = new_gradients(x, weight, None)[1].zero_() if needs[2] else None
    if x.numel() == 0:
        return ddy, ddx, ddweight
    like = weight
    groups, (weight, bias), strides, per_sample = _affine(mean, weight, bias)
    (a, b), (a_stride, b_stride) = affine_rows(a, b)
    # With three tensors and seven sums, tiles as large as those of the other passes would spill.
    launch = NormLaunch(x, groups, per_sample, act, slope, eps, reduces=False, tile=2048)
    tiling = launch.tiling
    geometry = *launch.extents, *launch.of_tiles, mean.numel(), *strides, a_stride
    operands = a, dense(dy, like=x), x, mean.contiguous(), var.contiguous(), weight, bias
    v = dense(v, like=x)
    sums = None if given else launch.new_partials(x, 7 * mean.numel())
    if not given:
        _second_sums_kernel[tiling.grid](v, *operands, sums, *geometry, SPANS=tiling.spans, **launch.constants)
    partials = None
    if needs_weight:
        shape = (1, like.numel(), tiling.pixel_tiles) if per_sample else (groups, x.shape[1], tiling.spans)
        partials = x.new_empty(shape, dtype=compute_dtype(x.dtype))
    _second_kernel[tiling.grid](
        v, b, *operands, sums, ddy, ddx, partials, *geometry, b_stride, **launch.constants, **launch.of_spans
    )
    return ddy, ddx, _summed(partials, like) if needs_weight else ddweight
