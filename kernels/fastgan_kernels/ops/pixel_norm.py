"""Pixelwise feature normalization (Karras et al. 2018, section 4.2).

Every pixel's vector of C channels is divided by its root mean square: with M the mean over the channels,

    y = xh = x * r,    r = 1 / sqrt(M(x^2) + eps)

and the first gradient is

    dx = D(dy),    D(g) = r * (g - xh * M(g * xh)).

D is symmetric, so the gradient of <D(g), v> in g is D(v), the same pass again; that in x is

    -r^2 * (xh * (M(g * v) - 3 a b) + g * b + v * a),    a = M(g * xh),  b = M(v * xh).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_eps, check_feature_map
from fastgan_kernels.layout import as_matrix, dense, empty_dense, extents
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import alignment, channel_tiling


@triton.jit
def _tile(
    start, shape, CHANNELS_LAST: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Offsets [samples, channels, pixels] of this program's tile from channel ``start`` on, and its mask.

    ``shape`` has the numbers of samples, channels, pixels, and tiles along the pixels.
    """
    samples, channels, pixels, pixel_tiles = shape
    sample = (tl.program_id(0) // pixel_tiles).to(tl.int64) * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    channel = start + tl.arange(0, BLOCK_CHANNELS)
    pixel = (tl.program_id(0) % pixel_tiles).to(tl.int64) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    if CHANNELS_LAST:
        inside = pixel[None, :] * channels + channel[:, None]
    else:
        inside = channel.to(tl.int64)[:, None] * pixels + pixel[None, :]
    exists = (channel < channels)[:, None] & (pixel < pixels)[None, :]
    mask = (sample < samples)[:, None, None] & exists[None, :, :]
    return (sample * channels * pixels)[:, None, None] + inside[None, :, :], mask


@triton.jit
def _mean(values, shape, COMPUTE: tl.constexpr):
    """The mean over all channels of a tile, or of sums over several tiles."""
    return tl.sum(values, axis=1) / shape[1].to(COMPUTE)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles"])
def _forward_kernel(
    x_ptr, y_ptr,
    samples, minor_groups, major, pixel_tiles,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    shape, eps = (samples, channels, pixels, pixel_tiles), tl.full((), EPS, COMPUTE)
    if RESIDENT:
        offset, mask = _tile(0, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(_mean(x * x, shape, COMPUTE) + eps)
        tl.store(y_ptr + offset, (x * r[:, None, :]).to(y_ptr.dtype.element_ty), mask=mask)
    else:
        squares = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(start, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            squares += x * x
        r = tl.rsqrt(_mean(squares, shape, COMPUTE) + eps)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(start, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            tl.store(y_ptr + offset, (x * r[:, None, :]).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _store_gradient(dx_ptr, offset, mask, g, x, r, mean_gxh):
    dx = (g - x * (r * mean_gxh)[:, None, :]) * r[:, None, :]
    tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles"])
def _backward_kernel(
    g_ptr, x_ptr, dx_ptr,
    samples, minor_groups, major, pixel_tiles,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """dx = D(g)."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    shape, eps = (samples, channels, pixels, pixel_tiles), tl.full((), EPS, COMPUTE)
    if RESIDENT:
        offset, mask = _tile(0, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(_mean(x * x, shape, COMPUTE) + eps)
        _store_gradient(dx_ptr, offset, mask, g, x, r, _mean(g * x, shape, COMPUTE) * r)
    else:
        squares = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        products = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(start, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            squares += x * x
            products += x * tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(_mean(squares, shape, COMPUTE) + eps)
        mean_gxh = _mean(products, shape, COMPUTE) * r
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(start, shape, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            _store_gradient(dx_ptr, offset, mask, g, x, r, mean_gxh)


def _launch(kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], eps: float) -> None:
    """Launches ``kernel`` on ``tensors`` that have the shape of a dense x and its layout."""
    samples, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    channels_last = as_matrix(x).channels_last
    if channels_last:
        # One row of channels per pixel, so all pixels count as those of one sample.
        samples, pixels = 1, samples * pixels
    minor, major = (channels, pixels) if channels_last else (pixels, channels)
    align = alignment(minor)
    tiling = channel_tiling(samples, channels, pixels, x.element_size(), channels_last=channels_last)
    kernel[tiling.grid](
        *tensors,
        samples,
        minor // align,
        major,
        tiling.pixel_tiles,
        EPS=eps,
        CHANNELS_LAST=channels_last,
        COMPUTE=triton_compute_dtype(x.dtype),
        ALIGN=align,
        RESIDENT=tiling.resident,
        **tiling.constants,
    )


def _launch_forward(x: Tensor, eps: float) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if y.numel():
        _launch(_forward_kernel, x, (x, y), eps)
    return y


def _launch_backward(g: Tensor, x: Tensor, eps: float) -> Tensor:
    x = dense(x)
    dx = torch.empty_like(x)
    if dx.numel():
        _launch(_backward_kernel, x, (dense(g, like=x), x, dx), eps)
    return dx


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, x, ctx.eps = inputs
    ctx.save_for_backward(g, x)


def _double_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of <D(g), v>: in g by the op itself, in x in differentiable torch operations."""
    g, x = ctx.saved_tensors
    needs_g, needs_x, _ = ctx.needs_input_grad
    dg = _pixel_norm_backward(v, x, ctx.eps) if needs_g else None
    if not needs_x:
        return dg, None
    with reference.no_autocast(x):
        wide_g, wide_v, wide_x = (t.to(compute_dtype(x.dtype)) for t in (g, v, x))
        r = torch.rsqrt(wide_x.square().mean(1, keepdim=True) + ctx.eps)
        xh = wide_x * r
        a, b, c = ((s * t).mean(1, keepdim=True) for s, t in ((wide_g, xh), (wide_v, xh), (wide_g, wide_v)))
        return dg, -r.square() * (xh * (c - 3 * a * b) + wide_g * b + wide_v * a)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, ctx.eps = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    return _pixel_norm_backward(dy, *ctx.saved_tensors, ctx.eps)


_pixel_norm_backward = DifferentiableOp(
    "pixel_norm_backward(Tensor g, Tensor x, float eps) -> Tensor",
    launch=_launch_backward,
    fake=lambda g, x, eps: empty_dense(x),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_pixel_norm = DifferentiableOp(
    "pixel_norm(Tensor x, float eps) -> Tensor",
    launch=_launch_forward,
    fake=lambda x, eps: empty_dense(x),
    setup_context=_save_for_backward,
    backward=_backward,
)


def pixel_norm(x: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Divides the vector of channels of every pixel by its root mean square (Karras et al. 2018, section 4.2).

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are. Latents [N, C]
            are images of one pixel.
        eps: added to the mean square; finite, at least 0.

    Returns:
        x / sqrt(mean of x^2 over the channels + eps), in the shape, type and layout of ``x``. Differentiable to any
        order; the first gradient is fused, higher ones are in part torch operations. Saves x.

    Raises:
        ValueError: for a shape or value other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("pixel_norm", x)
    check_eps("pixel_norm", eps)
    if not runs_triton(x):
        return reference.pixel_norm(guard_second_order(x), eps=eps)
    return _pixel_norm(x, float(eps))
