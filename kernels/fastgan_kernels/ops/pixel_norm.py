"""Pixelwise feature normalization (Karras et al. 2018, section 4.2).

Every pixel's vector of C channels is divided by its root mean square: with M the mean over the channels,

    y = xh = x * r,    r = 1 / sqrt(M(x^2) + eps)

and the first gradient is

    dx = D(dy),    D(g) = r * (g - xh * M(g * xh)).

D is symmetric, so the gradient of <D(g), v> in g is D(v); that in x is

    -r^2 * (xh * (M(g * v) - 3 a b) + g * b + v * a),    a = M(g * xh),  b = M(v * xh).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_eps, check_feature_map
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import dense, empty_dense, extents, matrix_of
from fastgan_kernels.precision import triton_compute_dtype
from fastgan_kernels.reduction import add
from fastgan_kernels.tiling import alignment, channel_tiling


@triton.jit
def _tile(start, shape, CHANNELS_LAST: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets [samples, channels, pixels] of this program's tile from channel ``start`` on, and its mask.

    ``shape`` has the numbers of samples, channels, pixels, and tiles along the pixels.
    """
    samples, channels, pixels, pixel_tiles = shape
    sample = (tl.program_id(0) // pixel_tiles).to(tl.int64) * BLOCK[0] + tl.arange(0, BLOCK[0])
    channel = start + tl.arange(0, BLOCK[1])
    pixel = (tl.program_id(0) % pixel_tiles).to(tl.int64) * BLOCK[2] + tl.arange(0, BLOCK[2])
    if CHANNELS_LAST:
        inside = pixel[None, :] * channels + channel[:, None]
    else:
        inside = channel.to(tl.int64)[:, None] * pixels + pixel[None, :]
    exists = (channel < channels)[:, None] & (pixel < pixels)[None, :]
    mask = (sample < samples)[:, None, None] & exists[None, :, :]
    return (sample * channels * pixels)[:, None, None] + inside[None, :, :], mask


@triton.jit
def _read(kept, operands, start, shape, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    """A tile's offsets and mask, and x, g and v there: ``kept``, or from memory.

    An absent g or v is 0, and the compiler drops what is made of it.
    """
    if kept is not None:
        return kept
    else:
        x_ptr, g_ptr, v_ptr = operands
        offset, mask = _tile(start, shape, CHANNELS_LAST, BLOCK)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        g, v = tl.zeros_like(x), tl.zeros_like(x)
        if g_ptr is not None:
            g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        if v_ptr is not None:
            v = tl.load(v_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        return offset, mask, x, g, v


@triton.jit
def _mean(values, shape, COMPUTE: tl.constexpr):
    """The mean over all channels of a tile, or of sums over several tiles."""
    return (tl.sum(values, axis=1) / shape[1].to(COMPUTE))[:, None, :]


@triton.jit
def _store(ptr, offset, mask, value):
    tl.store(ptr + offset, value.to(ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["samples", "minor_groups", "major", "pixel_tiles"])
def _kernel(
    x_ptr, g_ptr, v_ptr, y_ptr, dg_ptr, dx_ptr,
    samples, minor_groups, major, pixel_tiles,
    EPS: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, RESIDENT: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """y of x; of v too, dg = D(v); of g too, the gradient dx of <D(g), v>. Operands and results not needed are None.

    A program that cannot hold all channels reads them twice, and the second time in reverse: L2 has the last ones.
    """
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    shape, eps = (samples, channels, pixels, pixel_tiles), tl.full((), EPS, COMPUTE)
    BLOCK: tl.constexpr = (BLOCK_SAMPLES, BLOCK_CHANNELS, BLOCK_PIXELS)
    operands, kept = (x_ptr, g_ptr, v_ptr), None
    if RESIDENT:
        kept = _read(None, operands, 0, shape, CHANNELS_LAST, COMPUTE, BLOCK)
        channels = BLOCK_CHANNELS  # a loop that runs once is none to the compiler
    xx = tl.zeros(BLOCK, dtype=COMPUTE)
    gx, vx, gv = xx, xx, xx
    for start in range(0, channels, BLOCK_CHANNELS):
        _, _, x, g, v = _read(kept, operands, start, shape, CHANNELS_LAST, COMPUTE, BLOCK)
        xx = add(xx, x * x, RESIDENT)
        gx = add(gx, g * x, RESIDENT)
        vx = add(vx, v * x, RESIDENT)
        gv = add(gv, g * v, RESIDENT)
    r = tl.rsqrt(_mean(xx, shape, COMPUTE) + eps)
    a, b, mean_gv = _mean(gx, shape, COMPUTE) * r, _mean(vx, shape, COMPUTE) * r, _mean(gv, shape, COMPUTE)
    for start in range((channels - 1) // BLOCK_CHANNELS * BLOCK_CHANNELS, -1, -BLOCK_CHANNELS):
        offset, mask, x, g, v = _read(kept, operands, start, shape, CHANNELS_LAST, COMPUTE, BLOCK)
        if y_ptr is not None:
            _store(y_ptr, offset, mask, x * r)
        if dg_ptr is not None:
            _store(dg_ptr, offset, mask, (v - x * (r * b)) * r)
        if dx_ptr is not None:
            _store(dx_ptr, offset, mask, -r * r * (x * (r * (mean_gv - 3 * a * b)) + g * b + v * a))


@decided_once
def _launch_of(shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, eps: float, tensors: int) -> Launch:
    """The launch on ``tensors`` operands that have the shape and the layout of a dense x."""
    samples, channels = shape[:2]
    pixels = math.prod(shape[2:])
    channels_last = matrix_of(shape, is_contiguous).channels_last
    if channels_last:
        # One row of channels per pixel, so all pixels count as those of one sample.
        samples, pixels = 1, samples * pixels
    minor, major = (channels, pixels) if channels_last else (pixels, channels)
    align = alignment(minor)
    tiling = channel_tiling(samples, channels, pixels, dtype.itemsize, channels_last=channels_last, tensors=tensors)
    return Launch(
        _kernel, tiling.grid, (samples, minor // align, major, tiling.pixel_tiles),
        EPS=eps, CHANNELS_LAST=channels_last, COMPUTE=triton_compute_dtype(dtype), ALIGN=align,
        RESIDENT=tiling.resident, **tiling.constants,
    )  # fmt: skip


def _launch_forward(x: Tensor, eps: float) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if x.numel():
        _launch_of(x.shape, x.is_contiguous(), x.dtype, eps, 1)(x, None, None, y, None, None)
    return y


def _launch_backward(g: Tensor, x: Tensor, eps: float) -> Tensor:
    x = dense(x)
    dx = torch.empty_like(x)
    if x.numel():
        # D(g) is what the second order calls dg, of v.
        _launch_of(x.shape, x.is_contiguous(), x.dtype, eps, 2)(x, None, dense(g, like=x), None, dx, None)
    return dx


def _launch_double_backward(
    v: Tensor, g: Tensor, x: Tensor, eps: float, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    x = dense(x)
    dg, dx = (torch.empty_like(x) if need else None for need in needs)
    if x.numel():
        v, g = dense(v, like=x), dense(g, like=x)
        _launch_of(x.shape, x.is_contiguous(), x.dtype, eps, 3)(x, g, v, None, dg, dx)
    return dg, dx


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    g, x, ctx.eps = inputs
    ctx.save_for_backward(g, x)


def _double_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    return _pixel_norm_double_backward(v, *ctx.saved_tensors, ctx.eps, list(ctx.needs_input_grad[:2]))


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, ctx.eps = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    return _pixel_norm_backward(dy, *ctx.saved_tensors, ctx.eps)


_pixel_norm_double_backward = DifferentiableOp(
    "pixel_norm_double_backward(Tensor v, Tensor g, Tensor x, float eps, bool[] needs) -> (Tensor, Tensor)",
    launch=_launch_double_backward,
    fake=lambda v, g, x, *_: (empty_dense(x), empty_dense(x)),
    backward=refuse_third_order("pixel_norm"),
    is_gradient=True,
)

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
        x / sqrt(mean of x^2 over the channels + eps), in the shape, type and layout of ``x``. Differentiable
        twice, both orders fused. Saves x.

    Raises:
        ValueError: for a shape or value other than those above.
        TypeError: for an integer or complex tensor.
        RuntimeError: for a third order.
    """
    check_feature_map("pixel_norm", x)
    check_eps("pixel_norm", eps)
    if not runs_triton(x):
        return reference.pixel_norm(guard_second_order(x), eps=eps)
    return _pixel_norm(x, float(eps))
