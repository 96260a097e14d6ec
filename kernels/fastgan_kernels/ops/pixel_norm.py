"""Pixelwise feature normalisation (Karras et al. 2018, section 4.2).

Every pixel's vector of C channels is divided by its root mean square: with M the mean over the channels,

    y = xh = x * r,    r = 1 / sqrt(M(x^2) + eps)

and the first gradient is

    dx = D(dy),    D(g) = r * (g - xh * M(g * xh)).

D is symmetric, so the gradient of <D(g), v> in g is D(v), the same pass again; that in x is

    -r^2 * (xh * (M(g * v) - 3 a b) + g * b + v * a),    a = M(g * xh),  b = M(v * xh).

Saved for backward: x alone, from which r is computed anew; for the second order g too.
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
from fastgan_kernels.checks import check_feature_map
from fastgan_kernels.layout import as_matrix, dense, empty_dense, extents
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import alignment, channel_tiling


@triton.jit
def _tile(
    start, samples, channels, pixels, pixel_tiles,
    CHANNELS_LAST: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Offsets [samples, channels, pixels] of this program's tile from channel ``start`` on, and what of it exists."""
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


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles"])
def _forward_kernel(
    x_ptr, y_ptr,
    samples, minor_groups, major, pixel_tiles,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    count, eps = channels.to(COMPUTE), tl.full((), EPS, COMPUTE)
    if RESIDENT:
        offset, mask = _tile(
            0, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS
        )
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(tl.sum(x * x, axis=1) / count + eps)
        tl.store(y_ptr + offset, (x * r[:, None, :]).to(y_ptr.dtype.element_ty), mask=mask)
    else:
        squares = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(
                start, samples, channels, pixels, pixel_tiles,
                CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS,
            )  # fmt: skip
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            squares += x * x
        r = tl.rsqrt(tl.sum(squares, axis=1) / count + eps)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(
                start, samples, channels, pixels, pixel_tiles,
                CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS,
            )  # fmt: skip
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            tl.store(y_ptr + offset, (x * r[:, None, :]).to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles"])
def _backward_kernel(
    g_ptr, x_ptr, dx_ptr,
    samples, minor_groups, major, pixel_tiles,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """dx = D(g)."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    count, eps = channels.to(COMPUTE), tl.full((), EPS, COMPUTE)
    if RESIDENT:
        offset, mask = _tile(
            0, samples, channels, pixels, pixel_tiles, CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS
        )
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(tl.sum(x * x, axis=1) / count + eps)
        xh = x * r[:, None, :]
        mean_gxh = tl.sum(g * xh, axis=1) / count
        dx = (g - xh * mean_gxh[:, None, :]) * r[:, None, :]
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    else:
        squares = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        products = tl.zeros([BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(
                start, samples, channels, pixels, pixel_tiles,
                CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS,
            )  # fmt: skip
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            squares += x * x
            products += x * tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        r = tl.rsqrt(tl.sum(squares, axis=1) / count + eps)
        mean_gxh = tl.sum(products, axis=1) * r / count
        for start in range(0, channels, BLOCK_CHANNELS):
            offset, mask = _tile(
                start, samples, channels, pixels, pixel_tiles,
                CHANNELS_LAST, BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS,
            )  # fmt: skip
            x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            dx = (g - x * (r * mean_gxh)[:, None, :]) * r[:, None, :]
            tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)


def _launch(kernel: Any, x: Tensor, tensors: tuple[Tensor, ...], eps: float) -> None:
    """Launches ``kernel`` on ``tensors`` that have the shape of a dense x and its layout."""
    samples, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    channels_last = as_matrix(x).channels_last
    if channels_last:
        # A row of channels for each pixel of each sample: the samples need not be told apart.
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
        BLOCK_SAMPLES=tiling.block_samples,
        BLOCK_CHANNELS=tiling.block_channels,
        BLOCK_PIXELS=tiling.block_pixels,
        num_warps=tiling.num_warps,
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


def _double_backward(ctx: Any, v: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradients of <D(g), v>: in g by the op itself, in x in differentiable torch operations."""
    if v is None:
        return None, None, None
    g, x = ctx.saved_tensors
    needs_g, needs_x, _ = ctx.needs_input_grad
    dg = _pixel_norm_backward(v, x, ctx.eps) if needs_g else None
    if not needs_x:
        return dg, None, None
    with reference.no_autocast(x):
        wide_g, wide_v, wide_x = (t.to(compute_dtype(x.dtype)) for t in (g, v, x))
        r = torch.rsqrt(wide_x.square().mean(1, keepdim=True) + ctx.eps)
        xh = wide_x * r
        a, b, c = ((s * t).mean(1, keepdim=True) for s, t in ((wide_g, xh), (wide_v, xh), (wide_g, wide_v)))
        dx = -r.square() * (xh * (c - 3 * a * b) + wide_g * b + wide_v * a)
    return dg, dx.to(x.dtype), None


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, ctx.eps = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, None]:
    if dy is None:
        return None, None
    (x,) = ctx.saved_tensors
    return _pixel_norm_backward(dy, x, ctx.eps), None


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
    if not 0 <= eps < math.inf:
        raise ValueError(f"pixel_norm: eps is {eps}, expected a finite number of at least 0")
    if not runs_triton(x):
        return reference.pixel_norm(guard_second_order(x), eps=eps)
    return _pixel_norm(x, float(eps))
