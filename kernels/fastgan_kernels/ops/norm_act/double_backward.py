"""The second order, in two passes over memory.

For cotangents v of dz, a of dscale and b of dshift (the names of backward.py), with
G = a * g - r * (h * M(v * xh) + v * M(h * xh)),

    ddy = scale * r * P(v) + a * xh + b, through the activation after,
    ddz = r * (P(G) - r * xh * M(v * P(h))),    ddscale = r * sum(g * P(v)).

v and ddz pass the activation before, whose derivative is constant. Where the statistics are given, P(t) = t, G = a * g,
and nothing comes by way of r.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import dense
from fastgan_kernels.ops.norm_act.backward import summed
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
    norm_launch,
    of_channels,
    of_tile,
    over_pixels,
    planes_of,
    statistics_of,
    store,
    store_sums,
    tile_of_channels,
)
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _second_sums_kernel(
    v_ptr, a_ptr, b_ptr, dy_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr,
    sums_ptr,
    samples, minor_groups, major, scale_stride, shift_stride, a_stride, b_stride,
    pixel_tiles, all_tiles, tiles, spans, statistics,
    GIVEN: tl.constexpr, EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
    FOLD: tl.constexpr,
):  # fmt: skip
    """Sums of one span: of g, g * xh, and, with a v, of v, v * xh, v * g: [5, statistics, spans].

    With a scale for each sample h takes the place of g, and sums of a * g and a * g * xh follow.
    """
    program, span = tl.program_id(0), tl.program_id(1)
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    zeros = tl.zeros([BLOCK_CHANNELS, BLOCK_SAMPLES * BLOCK_PIXELS // FOLD], COMPUTE)
    of_g, of_gxh, of_v, of_vxh, of_vg, of_ag, of_agxh = zeros, zeros, zeros, zeros, zeros, zeros, zeros
    for i in range(span * tiles, tl.minimum((span + 1) * tiles, all_tiles)):
        tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        if v_ptr is not None:
            v = tl.load(v_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
        g, deviation, z, _, scale, _ = backward_tile(
            dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE, ACT, SLOPE, PER_SAMPLE, COMPUTE
        )
        if PER_SAMPLE:
            ag = g * over_pixels(of_tile(a_ptr, a_stride, tl.zeros_like(scale), block, tile, PER_SAMPLE))
            of_ag += folded(ag, FOLD)
            of_agxh += folded(ag * deviation, FOLD)
            g *= over_pixels(scale)
        of_g += folded(g, FOLD)
        of_gxh += folded(g * deviation, FOLD)
        if v_ptr is not None:
            v = through_activation(v, z, ACT_BEFORE, SLOPE, COMPUTE)
            of_v += folded(v, FOLD)
            of_vxh += folded(v * deviation, FOLD)
            of_vg += folded(v * g, FOLD)
    store_sums(sums_ptr, 0, statistics, spans, span, block, of_g)
    store_sums(sums_ptr, 1, statistics, spans, span, block, of_gxh * rstd)
    if v_ptr is not None:
        store_sums(sums_ptr, 2, statistics, spans, span, block, of_v)
        store_sums(sums_ptr, 3, statistics, spans, span, block, of_vxh * rstd)
        store_sums(sums_ptr, 4, statistics, spans, span, block, of_vg)
    if PER_SAMPLE:
        store_sums(sums_ptr, 5, statistics, spans, span, block, of_ag)
        store_sums(sums_ptr, 6, statistics, spans, span, block, of_agxh * rstd)


@triton.jit(do_not_specialize=[*EXTENTS, *TILES])
def _second_kernel(
    v_ptr, a_ptr, b_ptr, dy_ptr, x_ptr, noise_ptr, strength_ptr, bias_ptr, mean_ptr, var_ptr, scale_ptr, shift_ptr,
    sums_ptr, ddy_ptr, ddx_ptr, ddscale_ptr,
    samples, minor_groups, major, scale_stride, shift_stride, a_stride, b_stride,
    pixel_tiles, all_tiles, tiles, spans, statistics,
    GIVEN: tl.constexpr, EPS: tl.constexpr, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    STRENGTH_STRIDE: tl.constexpr, PER_SAMPLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """ddy and ddx of one span; the first span writes ddscale.

    With a scale for each sample, ddscale are partials [planes, pixel_tiles].
    """
    program, span = last_program_first()
    operands = Operands(x_ptr, noise_ptr, strength_ptr, bias_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride)
    block = channels_of_program(
        operands, samples, minor_groups, major, program, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, ALIGN, BLOCK_CHANNELS
    )
    mean, rstd = statistics_of(mean_ptr, var_ptr, block, EPS, COMPUTE)
    of_group_a = of_channels(a_ptr, block.group * a_stride + block.channel, block.exists, 0.0, COMPUTE)
    of_group_b = of_channels(b_ptr, block.group * b_stride + block.channel, block.exists, 0.0, COMPUTE)
    # Of g, or of h where the samples have scales of their own.
    mean_g = tl.zeros([BLOCK_CHANNELS, 1], COMPUTE)
    mean_gxh, mean_v, mean_vxh, mean_vg, mean_G, mean_Gxh = mean_g, mean_g, mean_g, mean_g, mean_g, mean_g
    scale = block.scale
    if sums_ptr is not None:
        if v_ptr is not None:
            mean_vg = mean_over_spans(sums_ptr, 4, statistics, 1, block, 1)
        if not GIVEN:
            mean_g = mean_over_spans(sums_ptr, 0, statistics, 1, block, 1)
            mean_gxh = mean_over_spans(sums_ptr, 1, statistics, 1, block, 1)
            if v_ptr is not None:
                mean_v = mean_over_spans(sums_ptr, 2, statistics, 1, block, 1)
                mean_vxh = mean_over_spans(sums_ptr, 3, statistics, 1, block, 1)
        # From here on it is the mean of v * P(g).
        mean_vg -= mean_v * mean_g + mean_vxh * mean_gxh
        if PER_SAMPLE:
            mean_G = mean_over_spans(sums_ptr, 5, statistics, 1, block, 1)
            mean_G -= rstd * mean_vxh * mean_g
            mean_Gxh = mean_over_spans(sums_ptr, 6, statistics, 1, block, 1)
            scale = tl.full([BLOCK_CHANNELS, 1], 1.0, COMPUTE)
        else:
            if span == 0:
                store(ddscale_ptr, block.index, tl.sum(mean_vg * rstd, axis=1) * block.count, block.exists)
            mean_Gxh = mean_gxh * of_group_a
        # With what comes by way of r, which is a multiple of xh too.
        mean_Gxh += rstd * scale * (mean_vg - 2 * mean_vxh * mean_gxh)
    of_v = scale * mean_gxh * rstd * rstd
    for i in range(tl.minimum((span + 1) * tiles, all_tiles) - 1, span * tiles - 1, -1):
        tile = tile_of_channels(block, i, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_PIXELS)
        if v_ptr is not None:
            v = tl.load(v_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
        g, deviation, z, p, scale, _ = backward_tile(
            dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE, ACT, SLOPE, PER_SAMPLE, COMPUTE
        )
        a = of_tile(a_ptr, a_stride, of_group_a, block, tile, PER_SAMPLE)
        b = of_tile(b_ptr, b_stride, of_group_b, block, tile, PER_SAMPLE)
        # The factor of the deviation in ddy, and of g in ddx.
        both = (a - scale * rstd * mean_vxh) * rstd
        if v_ptr is not None:
            v = through_activation(v, z, ACT_BEFORE, SLOPE, COMPUTE) - over_pixels(mean_v)
            if PER_SAMPLE and ddscale_ptr is not None:
                plane = planes_of(block, tile) * pixel_tiles + i % pixel_tiles
                projected = v - deviation * over_pixels(rstd * mean_vxh)
                tl.store(ddscale_ptr + plane, tl.sum(g * projected, axis=2) * rstd, mask=tile.there)
        # Both are computed before either is stored: loads do not pass a store.
        ddy = deviation * over_pixels(both) + over_pixels(b)
        if PER_SAMPLE:
            ddx = g * over_pixels(both) - over_pixels(mean_G * rstd)
        else:
            ddx = (g - over_pixels(mean_g)) * over_pixels(both)
        if v_ptr is not None:
            ddy += v * over_pixels(scale * rstd)
        if not GIVEN:
            ddx -= deviation * over_pixels(mean_Gxh * rstd * rstd)
            if v_ptr is not None:
                ddx -= v * over_pixels(of_v)
        if ddy_ptr is not None:
            ddy = through_activation(ddy, p, ACT, SLOPE, COMPUTE)
            tl.store(ddy_ptr + tile.offset, ddy.to(ddy_ptr.dtype.element_ty), mask=tile.mask)
        if ddx_ptr is not None:
            ddx = through_activation(ddx, z, ACT_BEFORE, SLOPE, COMPUTE)
            tl.store(ddx_ptr + tile.offset, ddx.to(ddx_ptr.dtype.element_ty), mask=tile.mask)


def launch_double_backward(
    v: Tensor | None, a: Tensor | None, b: Tensor | None, dy: Tensor, x: Tensor, mean: Tensor, var: Tensor,
    scale: Tensor | None, shift: Tensor | None, given: bool, eps: float, act: str, slope: float, needs: list[bool],
    before: Before = NOTHING, *, wide: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients of dy, x (with ``wide`` in the type of the arithmetic) and scale, where they are needed."""
    x = dense(x)
    dtype = compute_dtype(x.dtype)
    needs_dy, needs_x, needs_scale = needs
    ddy = torch.empty_like(x) if needs_dy else None
    ddx = torch.empty_like(x, dtype=dtype if wide else x.dtype) if needs_x else None
    # The gradients of scale and shift do not depend on scale.
    by_v = needs_scale and v is not None
    if x.numel() == 0 or not (needs_dy or needs_x or by_v):
        return ddy, ddx, torch.zeros_like(scale, dtype=dtype) if needs_scale else None
    groups = mean.shape[0] if mean.dim() == 2 else 1
    affine, strides = affine_rows(scale, shift)
    cotangents, more_strides = affine_rows(a, b)
    launch = norm_launch(x, groups, affine, before, act, slope, eps, reduces=False, tensors=3, wide=wide)
    tiling = launch.tiling
    operands = (
        dense(v, like=x), *cotangents, dense(dy, like=x), x, *before.operands,
        mean.contiguous(), var.contiguous(), *affine,
    )  # fmt: skip
    writes = needs_dy or needs_x or launch.per_sample
    add_up, finish = _launches(launch, (*strides, *more_strides), given, writes)
    sums = ddscale = None
    if not given or (by_v and not launch.per_sample):
        sums = launch.new_partials(x, 7 if launch.per_sample else 5, mean.numel())
        add_up(*operands, sums)
        # A launch more, but then the programs of the second pass need not add up spans, for which registers are few.
        sums = sum_partials(sums.view(1, -1, tiling.spans)) if tiling.spans > 1 else sums
    if by_v:
        shape = (1, scale.numel(), tiling.pixel_tiles) if launch.per_sample else (groups, x.shape[1], 1)
        ddscale = x.new_empty(shape, dtype=dtype)
    finish(*operands, sums, ddy, ddx, ddscale)
    if needs_scale:
        return ddy, ddx, summed(ddscale, scale) if by_v else torch.zeros_like(scale, dtype=dtype)
    return ddy, ddx, None


@decided_once
def _launches(launch: NormLaunch, strides: tuple[int, ...], given: bool, writes: bool) -> tuple[Launch, Launch]:
    """Those of the sums and of the gradients, which without ``writes`` are only the scale's."""
    tiling, geometry = launch.tiling, (*launch.extents, *strides, *launch.of_tiles)
    constants = {"GIVEN": given, **launch.constants}
    return (
        Launch(_second_sums_kernel, tiling.grid, geometry, **constants, **launch.folds),
        Launch(_second_kernel, tiling.grid if writes else (tiling.channel_programs, 1), geometry, **constants),
    )
