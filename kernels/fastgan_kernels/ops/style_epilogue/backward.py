"""The first gradient of adain and style_epilogue in one pass, fused like the forward.

With z of tile.py, xh = (z - mean) * r, M the mean over a plane, and g the incoming gradient dy (in the tutorial's order
times the activation's derivative),

    dz = scale * r * (g - M(g) - xh * M(g * xh)),    dscale = sum(g * xh),    dshift = sum(g)

and dx is dz, in the paper's order times the activation's derivative; dbias and dstrength are sums of dx and dx * noise.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.layout import (
    block_of_planes,
    contiguous,
    dense,
    empty_dense,
    over_pixels,
    tile_of_planes,
    tiles_of_span,
)
from fastgan_kernels.ops.noise_injection import noise_gradients
from fastgan_kernels.ops.style_epilogue.tile import (
    EpilogueLaunch,
    Inputs,
    noise_of_tile,
    noise_rows,
    normalised_tile,
    per_plane,
    rows,
)
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import next_power_of_2

# In these kernels an output that is not needed is None, and so is the shift unless the activation comes after it.


class Normalisation(NamedTuple):
    """In kernels, mean, r, scale and shift of each plane."""

    mean: Any
    rstd: Any
    scale: Any
    shift: Any


class Outputs(NamedTuple):
    """In kernels, the pointers of dx and of the partial sums of dbias and dstrength."""

    dx_ptr: Any
    dbias_ptr: Any
    dstrength_ptr: Any


@triton.jit
def _normalisation(mean_ptr, rstd_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride, planes, COMPUTE: tl.constexpr):
    mean = tl.load(mean_ptr + planes.index, mask=planes.exists, other=0.0)
    rstd = tl.load(rstd_ptr + planes.index, mask=planes.exists, other=0.0)
    scale = per_plane(scale_ptr, scale_stride, planes, COMPUTE)
    # Triton 3.6 cannot return None from a function. Where there is no shift, this placeholder is never read.
    shift = scale
    if shift_ptr is not None:
        shift = per_plane(shift_ptr, shift_stride, planes, COMPUTE)
    return Normalisation(mean, rstd, scale, shift)


@triton.jit
def _before_activation(g, z, norm, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    """g, the gradient of y, times the derivative of the activation after the shift, if there is one."""
    if ACT_AFTER != "linear":
        y = (z - norm.mean[:, None]) * (norm.scale * norm.rstd)[:, None] + norm.shift[:, None]
        g = through_activation(g, y, ACT_AFTER, SLOPE, COMPUTE)
    return g


@triton.jit
def _sums(
    g_ptr, inputs, planes, norm, start, stop,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Sums of g and of g * xh over the tiles start to stop: their share of dshift and dscale."""
    g_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    gxh_of_lane = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(planes, tile, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        z = normalised_tile(
            inputs, planes, tile, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
        )
        g = _before_activation(g, z, norm, ACT_AFTER, SLOPE, COMPUTE)
        g_of_lane += g
        gxh_of_lane += g * (z - norm.mean[:, None])
    return tl.sum(g_of_lane, axis=1), tl.sum(gxh_of_lane, axis=1) * norm.rstd


@triton.jit
def _project(
    g_ptr, inputs, outputs, partial, planes, norm, start, stop, mean_g, mean_gxh,
    ACT_BEFORE: tl.constexpr, ACT_AFTER: tl.constexpr, SLOPE: tl.constexpr, STRENGTH_STRIDE: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_PLANES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """dx over the tiles start to stop; its sums for bias and strength at ``partial``."""
    factor = norm.scale * norm.rstd
    if outputs.dbias_ptr is not None:
        dbias = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    if outputs.dstrength_ptr is not None:
        dstrength = tl.zeros([BLOCK_PLANES, BLOCK_PIXELS], dtype=COMPUTE)
    for tile in range(start, stop):
        offset, mask = tile_of_planes(planes, tile, CHANNELS_LAST, BLOCK_PIXELS)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        z = normalised_tile(
            inputs, planes, tile, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
        )
        g = _before_activation(g, z, norm, ACT_AFTER, SLOPE, COMPUTE)
        xh = (z - norm.mean[:, None]) * norm.rstd[:, None]
        dx = (g - over_pixels(mean_g) - xh * over_pixels(mean_gxh)) * factor[:, None]
        dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
        if outputs.dx_ptr is not None:
            tl.store(outputs.dx_ptr + offset, dx.to(outputs.dx_ptr.dtype.element_ty), mask=mask)
        if outputs.dbias_ptr is not None or outputs.dstrength_ptr is not None:
            dx = tl.where(mask, dx, 0.0)
        if outputs.dstrength_ptr is not None:
            # Read again, from L1: the compiler cannot keep it across the store, and it would not fit into registers.
            noise = noise_of_tile(inputs.noise_ptr, planes, tile, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
            dstrength += dx * noise
        if outputs.dbias_ptr is not None:
            dbias += dx
    if outputs.dbias_ptr is not None:
        tl.store(outputs.dbias_ptr + partial, tl.sum(dbias, axis=1), mask=planes.exists)
    if outputs.dstrength_ptr is not None:
        tl.store(outputs.dstrength_ptr + partial, tl.sum(dstrength, axis=1), mask=planes.exists)


@triton.jit
def _store_sums(dscale_ptr, dshift_ptr, planes, sum_g, sum_gxh):
    if dscale_ptr is not None:
        tl.store(dscale_ptr + planes.index, sum_gxh, mask=planes.exists)
    if dshift_ptr is not None:
        tl.store(dshift_ptr + planes.index, sum_g, mask=planes.exists)


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
    inputs = Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr)
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    norm = _normalisation(mean_ptr, rstd_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride, planes, COMPUTE)
    offset, mask = tile_of_planes(planes, 0, CHANNELS_LAST, BLOCK_PIXELS)
    z = normalised_tile(
        inputs, planes, 0, offset, mask, ACT_BEFORE, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS
    )
    g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    xh = (z - norm.mean[:, None]) * norm.rstd[:, None]
    g = _before_activation(g, z, norm, ACT_AFTER, SLOPE, COMPUTE)
    sum_g = tl.sum(g, axis=1)
    sum_gxh = tl.sum(g * xh, axis=1)
    _store_sums(dscale_ptr, dshift_ptr, planes, sum_g, sum_gxh)
    if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
        count = tl.zeros((), COMPUTE) + planes.pixels
        dx = (g - (sum_g / count)[:, None] - xh * (sum_gxh / count)[:, None]) * (norm.scale * norm.rstd)[:, None]
        dx = through_activation(dx, z, ACT_BEFORE, SLOPE, COMPUTE)
        # Computes addresses again, from a tile index that the compiler does not know to be 0. Otherwise it would keep
        # the pointers and masks of all elements of a thread since the loads, which do not fit into registers. Small
        # planes without noise have few of them, and in float64 need the registers (benchmarks/static/compiled.csv, on
        # Triton 3.6 too).
        tile = tl.program_id(1)
        if noise_ptr is not None or BLOCK_PLANES == 1:
            offset, mask = tile_of_planes(planes, tile, CHANNELS_LAST, BLOCK_PIXELS)
        if dbias_ptr is not None or dstrength_ptr is not None:
            dx = tl.where(mask, dx, 0.0)
        if dx_ptr is not None:
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        if dstrength_ptr is not None:
            noise = noise_of_tile(noise_ptr, planes, tile, mask, CHANNELS_LAST, COMPUTE, BLOCK_PIXELS)
            tl.store(dstrength_ptr + planes.index, tl.sum(dx * noise, axis=1), mask=planes.exists)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + planes.index, tl.sum(dx, axis=1), mask=planes.exists)


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
    """Planes that are read twice; so few are in flight that the second read comes from L2."""
    inputs = Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr)
    outputs = Outputs(dx_ptr, dbias_ptr, dstrength_ptr)
    for block in range(tl.program_id(0), plane_blocks, tl.num_programs(0)):
        planes = block_of_planes(block, samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
        norm = _normalisation(mean_ptr, rstd_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride, planes, COMPUTE)
        sum_g, sum_gxh = _sums(
            g_ptr, inputs, planes, norm, 0, tiles,
            ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
        _store_sums(dscale_ptr, dshift_ptr, planes, sum_g, sum_gxh)
        if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
            count = tl.zeros((), COMPUTE) + planes.pixels
            _project(
                g_ptr, inputs, outputs, planes.index, planes, norm, 0, tiles, sum_g / count, sum_gxh / count,
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
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    norm = _normalisation(mean_ptr, rstd_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride, planes, COMPUTE)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, planes.pixels, BLOCK_PIXELS)
    sum_g, sum_gxh = _sums(
        g_ptr, Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr), planes, norm, start, stop,
        ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
    )  # fmt: skip
    tl.store(sums_g_ptr + planes.index * SPANS + span, sum_g, mask=planes.exists)
    tl.store(sums_gxh_ptr + planes.index * SPANS + span, sum_gxh, mask=planes.exists)


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
    planes = block_of_planes(tl.program_id(0), samples, minor_groups, major, ALIGN, CHANNELS_LAST, BLOCK_PLANES)
    others = tl.arange(0, SPANS_POWER_OF_2)
    partial = planes.index[:, None] * SPANS + others[None, :]
    mask = planes.exists[:, None] & (others < SPANS)[None, :]
    sum_g = tl.sum(tl.load(sums_g_ptr + partial, mask=mask, other=0.0), axis=1)
    sum_gxh = tl.sum(tl.load(sums_gxh_ptr + partial, mask=mask, other=0.0), axis=1)
    span = tl.program_id(1)
    if dx_ptr is not None or dbias_ptr is not None or dstrength_ptr is not None:
        norm = _normalisation(mean_ptr, rstd_ptr, scale_ptr, shift_ptr, scale_stride, shift_stride, planes, COMPUTE)
        count = tl.zeros((), COMPUTE) + planes.pixels
        start, stop = tiles_of_span(span, tiles, planes.pixels, BLOCK_PIXELS)
        _project(
            g_ptr, Inputs(x_ptr, noise_ptr, strength_ptr, bias_ptr), Outputs(dx_ptr, dbias_ptr, dstrength_ptr),
            planes.index * SPANS + span, planes, norm, start, stop, sum_g / count, sum_gxh / count,
            ACT_BEFORE, ACT_AFTER, SLOPE, STRENGTH_STRIDE, CHANNELS_LAST, COMPUTE, BLOCK_PLANES, BLOCK_PIXELS,
        )  # fmt: skip
    if span == 0:
        _store_sums(dscale_ptr, dshift_ptr, planes, sum_g, sum_gxh)


def launch_backward(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor | None, noise: Tensor | None, seed: Tensor | None,
    strength: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    act: str, slope: float, order: str, eps: float, needs: list[bool],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """The gradients of x, scale, shift, noise, strength and bias, where needed."""
    needs_x, _, _, needs_noise, needs_strength, needs_bias = needs
    x = dense(x)
    gradients = (t if need else None for t, need in zip(new_gradients(x, strength), needs, strict=True))
    dx, dscale, dshift, dnoise, dstrength, dbias = gradients
    if x.numel() == 0:
        return dx, *(None if t is None else t.zero_() for t in (dscale, dshift, dnoise, dstrength, dbias))
    launch = EpilogueLaunch(x, strength, act, slope, order, tensors=2)
    tiling = launch.tiling
    # The noise's gradient sums dx over channels, before dx is rounded to the type of x.
    wide_dx = torch.empty_like(x, dtype=compute_dtype(x.dtype)) if needs_noise else dx
    bias_sums, strength_sums = (launch.new_partials(x) if need else None for need in (needs_bias, needs_strength))
    projected = wide_dx, dscale, dshift, bias_sums, strength_sums
    scale, shift = rows(scale), None if shift is None else rows(shift)
    inputs = x, noise_rows(x, noise, seed), contiguous(strength), contiguous(bias)
    operands = dense(g, like=x), *inputs, scale, shift, mean, rstd
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
        _, dnoise = noise_gradients(wide_dx, strength, None, None, strength.dim() == 1, [False, True])
        dx = wide_dx.to(x.dtype) if needs_x else None
    return dx, dscale, dshift, dnoise, dstrength, dbias


def new_gradients(x: Tensor, strength: Tensor | None) -> tuple[Tensor, ...]:
    """Uninitialized; all but dx in the type of the arithmetic."""
    n, c, *spatial = x.shape
    strength_shape = () if strength is None else strength.shape
    shapes = (n, c), (n, c), (n, 1, *spatial), strength_shape, (c,)
    return empty_dense(x), *(x.new_empty(shape, dtype=compute_dtype(x.dtype)) for shape in shapes)
