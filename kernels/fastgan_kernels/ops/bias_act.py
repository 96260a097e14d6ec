"""Bias, activation, gain and clamp in one pass.

    y = clamp(gain * act(x + bias))

The derivative m depends on the output alone (its sign tells the branch, its size whether it was clamped), so y is all
that is saved. The first gradient is D(dy, 0), where the linear map

    D(g, b) = (m(y) * (g + b), the same summed over all axes but the channels)

is symmetric in (g, b): it is its own derivative, and gradients of every order are this one fused pass.

The curved activations (tanh and its like) save x and the bias instead, from which u = x + bias is computed again. With
f = act, cut to 0 where the output is clamped, their first gradient in u is gain * f'(u) * dy, linear in dy; the
derivative of that, for a cotangent h, is gain * f'(u) * h in dy and gain * f''(u) * h * dy in u. There they end.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.activation import (
    ACTIVATIONS,
    CURVED_ACTIVATIONS,
    activate,
    curved_activation,
    through_activation,
)
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_activation, check_feature_map, check_operand
from fastgan_kernels.layout import Matrix, as_matrix, dense, empty_dense, tile_of_matrix
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import MatrixTiling, alignment, matrix_tiling


@triton.jit
def _per_channel(
    ptr, row_tile, col, channels, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """The bias of each column (channels-last) or row of a tile, ready to broadcast."""
    if CHANNELS_LAST:
        return tl.load(ptr + col, mask=col < channels, other=0.0).to(COMPUTE)[None, :]
    else:
        # In 32 bits, which contiguous rows fit; those past the end wrap around to a channel that exists.
        row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        return tl.load(ptr + row % channels).to(COMPUTE)[:, None]


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _forward_kernel(
    x_ptr,
    bias_ptr,
    y_ptr,
    rows,
    col_groups,
    channels,
    ACT: tl.constexpr,
    SLOPE: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    col_tiles = tl.cdiv(col_groups * COL_ALIGN, BLOCK_COLS)
    pid = tl.program_id(0)
    row_tile = pid // col_tiles
    _, col, offset, mask = tile_of_matrix(
        row_tile, pid % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    y = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if bias_ptr is not None:
        y += _per_channel(bias_ptr, row_tile, col, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    y = activate(y, ACT, SLOPE, COMPUTE)
    y *= tl.full((), GAIN, COMPUTE)
    if CLAMP is not None:
        # The backward pass compares the stored output, so this compares what will be stored.
        y = y.to(y_ptr.dtype.element_ty).to(COMPUTE)
        limit = tl.full((), CLAMP, COMPUTE)
        y = tl.where(tl.abs(y) >= limit, tl.where(y > 0, limit, -limit), y)
    tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _store_partials(
    partials_ptr, dx, mask, row, row_tile, rows, col, col_tile, cols, col_tiles, CHANNELS_LAST: tl.constexpr
):
    """The sums of a tile of dx over its part of each channel."""
    dx = tl.where(mask, dx, 0.0)
    if CHANNELS_LAST:
        tl.store(partials_ptr + row_tile.to(tl.int64) * cols + col, tl.sum(dx, axis=0), mask=col < cols)
    else:
        tl.store(partials_ptr + row * col_tiles + col_tile, tl.sum(dx, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _derivative_kernel(
    g_ptr,
    b_ptr,
    y_ptr,
    dx_ptr,
    partials_ptr,
    rows,
    col_groups,
    channels,
    ACT: tl.constexpr,
    SLOPE: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """dx = m(y) * (g + b), and the sums of dx over the part of each channel in this tile; an absent operand is None."""
    cols = col_groups * COL_ALIGN
    col_tiles = tl.cdiv(cols, BLOCK_COLS)
    pid = tl.program_id(0)
    row_tile = pid // col_tiles
    row, col, offset, mask = tile_of_matrix(
        row_tile, pid % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], dtype=COMPUTE)
    if g_ptr is not None:
        dx += tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if b_ptr is not None:
        dx += _per_channel(b_ptr, row_tile, col, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    dx *= tl.full((), GAIN, COMPUTE)
    if y_ptr is not None:
        y = tl.load(y_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        dx = through_activation(dx, y, ACT, SLOPE, COMPUTE)
        if CLAMP is not None:
            dx = tl.where(tl.abs(y) >= tl.full((), CLAMP, COMPUTE), 0.0, dx)
    if dx_ptr is not None:
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if partials_ptr is not None:
        _store_partials(
            partials_ptr, dx, mask, row, row_tile, rows, col, pid % col_tiles, cols, col_tiles, CHANNELS_LAST
        )


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _curved_derivative_kernel(
    g_ptr,
    b_ptr,
    h_ptr,
    x_ptr,
    bias_ptr,
    dx_ptr,
    partials_ptr,
    rows,
    col_groups,
    channels,
    ACT: tl.constexpr,
    GAIN: tl.constexpr,
    CLAMP: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):
    """dx = gain * f'(u) * (g + b), or gain * f''(u) * (g + b) * h where there is an h; and the sums of dx, as above."""
    cols = col_groups * COL_ALIGN
    col_tiles = tl.cdiv(cols, BLOCK_COLS)
    pid = tl.program_id(0)
    row_tile = pid // col_tiles
    row, col, offset, mask = tile_of_matrix(
        row_tile, pid % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    gain = tl.full((), GAIN, COMPUTE)
    u = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if bias_ptr is not None:
        u += _per_channel(bias_ptr, row_tile, col, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    dx = tl.zeros([BLOCK_ROWS, BLOCK_COLS], dtype=COMPUTE)
    if g_ptr is not None:
        dx += tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if b_ptr is not None:
        dx += _per_channel(b_ptr, row_tile, col, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    dx *= gain
    if h_ptr is None:
        dx *= curved_activation(u, ACT, 1, COMPUTE)
    else:
        dx *= curved_activation(u, ACT, 2, COMPUTE) * tl.load(h_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if CLAMP is not None:
        y = (gain * curved_activation(u, ACT, 0, COMPUTE)).to(x_ptr.dtype.element_ty).to(COMPUTE)
        dx = tl.where(tl.abs(y) >= tl.full((), CLAMP, COMPUTE), 0.0, dx)
    if dx_ptr is not None:
        tl.store(dx_ptr + offset, dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if partials_ptr is not None:
        _store_partials(
            partials_ptr, dx, mask, row, row_tile, rows, col, pid % col_tiles, cols, col_tiles, CHANNELS_LAST
        )


@functools.cache
def _round_to(value: float | None, dtype: torch.dtype) -> float | None:
    return None if value is None else torch.tensor(value, dtype=dtype).item()


def _constants(
    m: Matrix, tiling: MatrixTiling, dtype: torch.dtype, act: str, gain: float, clamp: float | None
) -> dict[str, Any]:
    return {
        "ACT": act,
        "GAIN": gain,
        "CLAMP": _round_to(clamp, dtype),
        "CHANNELS_LAST": m.channels_last,
        "COMPUTE": triton_compute_dtype(dtype),
        "COL_ALIGN": alignment(m.cols),
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLS": tiling.block_cols,
        "num_warps": tiling.num_warps,
    }


def _launch_forward(x: Tensor, bias: Tensor | None, act: str, slope: float, gain: float, clamp: float | None) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    m = as_matrix(x)
    tiling = matrix_tiling(m.rows, m.cols, x.element_size())
    _forward_kernel[tiling.grid](
        x,
        None if bias is None else bias.contiguous(),
        y,
        m.rows,
        m.cols // alignment(m.cols),
        m.channels,
        SLOPE=slope,
        **_constants(m, tiling, x.dtype, act, gain, clamp),
    )
    return y


def _tiles_and_partials(y: Tensor, needs_dbias: bool) -> tuple[Matrix, MatrixTiling, Tensor | None]:
    """The matrix that a dense tensor is, its tiles, and memory for the sums that these leave of each channel."""
    m = as_matrix(y)
    tiling = matrix_tiling(m.rows, m.cols, y.element_size(), column_sums=needs_dbias and m.channels_last)
    if not needs_dbias:
        return m, tiling, None
    if m.channels_last:
        shape = (tiling.row_programs, m.channels, 1)
    else:
        shape = (m.rows // m.channels, m.channels, tiling.col_programs)
    return m, tiling, y.new_empty(shape, dtype=compute_dtype(y.dtype))


def _launch_derivative(
    g: Tensor | None,
    b: Tensor | None,
    y: Tensor,
    act: str,
    slope: float,
    gain: float,
    clamp: float | None,
    needs_dx: bool,
    needs_dbias: bool,
) -> tuple[Tensor, Tensor]:
    y = dense(y)
    dx = torch.empty_like(y) if needs_dx else y.new_empty(0)
    sum_dtype = compute_dtype(y.dtype)
    if y.numel() == 0:
        return dx, y.new_zeros(y.shape[1] if needs_dbias else 0, dtype=sum_dtype)
    m, tiling, partials = _tiles_and_partials(y, needs_dbias)
    reads_y = act != "linear" or clamp is not None
    _derivative_kernel[tiling.grid](
        None if g is None else dense(g, like=y),
        None if b is None else b.contiguous(),
        y if reads_y else None,
        dx if needs_dx else None,
        partials,
        m.rows,
        m.cols // alignment(m.cols),
        m.channels,
        SLOPE=slope,
        **_constants(m, tiling, y.dtype, act, gain, clamp),
    )
    return dx, y.new_empty(0, dtype=sum_dtype) if partials is None else sum_partials(partials)


def _launch_curved_derivative(
    g: Tensor | None,
    b: Tensor | None,
    h: Tensor | None,
    x: Tensor,
    bias: Tensor | None,
    act: str,
    gain: float,
    clamp: float | None,
    needs_dx: bool,
    needs_dbias: bool,
) -> tuple[Tensor, Tensor]:
    x = dense(x)
    dx = torch.empty_like(x) if needs_dx else x.new_empty(0)
    sum_dtype = compute_dtype(x.dtype)
    if x.numel() == 0:
        return dx, x.new_zeros(x.shape[1] if needs_dbias else 0, dtype=sum_dtype)
    m, tiling, partials = _tiles_and_partials(x, needs_dbias)
    _curved_derivative_kernel[tiling.grid](
        None if g is None else dense(g, like=x),
        None if b is None else b.contiguous(),
        None if h is None else dense(h, like=x),
        x,
        None if bias is None else bias.contiguous(),
        dx if needs_dx else None,
        partials,
        m.rows,
        m.cols // alignment(m.cols),
        m.channels,
        **_constants(m, tiling, x.dtype, act, gain, clamp),
    )
    return dx, x.new_empty(0, dtype=sum_dtype) if partials is None else sum_partials(partials)


def _fake_derivative(g: Tensor | None, b: Tensor | None, y: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    needs_dx, needs_dbias = settings[-2:]
    return (
        empty_dense(y) if needs_dx else y.new_empty(0),
        y.new_empty(y.shape[1] if needs_dbias else 0, dtype=compute_dtype(y.dtype)),
    )


def _save_for_derivative(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[2])
    *ctx.settings, ctx.has_dx, ctx.has_dbias = inputs[3:]


def _backward_of_derivative(ctx: Any, g: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
    (y,) = ctx.saved_tensors
    # An output that was not asked for is empty, and so is what comes back for it.
    g, b = g if ctx.has_dx else None, b if ctx.has_dbias else None
    dg, db = _differentiate(ctx, g, b, y, *ctx.needs_input_grad[:2])
    return dg, db, None, None, None, None, None, None, None


def _save_for_curved_derivative(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    g, b, h, x, bias, *ctx.settings, ctx.has_dx, ctx.has_dbias = inputs
    ctx.is_first = b is None and h is None
    if ctx.is_first:
        ctx.save_for_backward(g, x, bias)
        ctx.bias_dtype = None if bias is None else bias.dtype


def _backward_of_curved_derivative(ctx: Any, g: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.is_first:
        refuse_third_order(f"bias_act with {ctx.settings[0]}")(ctx)
    dy, x, bias = ctx.saved_tensors
    g, b = g if ctx.has_dx else None, b if ctx.has_dbias else None
    ddy = dx = dbias = None
    if g is not None or b is not None:
        needs_dy, _, _, needs_x, needs_bias = ctx.needs_input_grad[:5]
        if needs_dy:
            ddy, _ = _curved_derivative(g, b, None, x, bias, *ctx.settings, True, False)
        if needs_x or needs_bias:
            dx, dbias = _curved_derivative(g, b, dy, x, bias, *ctx.settings, needs_x, needs_bias)
            dx, dbias = dx if needs_x else None, dbias.to(ctx.bias_dtype) if needs_bias else None
    return ddy, None, None, dx, dbias, None, None, None, None, None


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, bias, *ctx.settings = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    act, _, _, clamp = ctx.settings
    if act in CURVED_ACTIVATIONS:
        ctx.save_for_backward(x, bias)
    else:
        # A purely linear op has a constant derivative.
        ctx.save_for_backward(*(() if act == "linear" and clamp is None else (y,)))


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    act, _, gain, clamp = ctx.settings
    if act in CURVED_ACTIVATIONS:
        if dy is None:
            return (None,) * 6
        x, bias = ctx.saved_tensors
        needs_dx, needs_dbias = ctx.needs_input_grad[:2]
        dx, dbias = _curved_derivative(dy, None, None, x, bias, act, gain, clamp, needs_dx, needs_dbias)
        return dx if needs_dx else None, dbias.to(ctx.bias_dtype) if needs_dbias else None, None, None, None, None
    # Read once: under torch.utils.checkpoint what is saved can be unpacked a single time.
    saved = ctx.saved_tensors
    y = saved[0] if saved else dy
    dx, dbias = _differentiate(ctx, dy, None, y, *ctx.needs_input_grad[:2])
    return dx, None if dbias is None else dbias.to(ctx.bias_dtype), None, None, None, None


def _differentiate(
    ctx: Any, g: Tensor | None, b: Tensor | None, y: Tensor, needs_dx: bool, needs_dbias: bool
) -> tuple[Tensor | None, Tensor | None]:
    if g is None and b is None:
        return None, None
    dx, dbias = _derivative(g, b, y, *ctx.settings, needs_dx, needs_dbias)
    return dx if needs_dx else None, dbias if needs_dbias else None


_derivative = DifferentiableOp(
    "bias_act_derivative(Tensor? g, Tensor? b, Tensor y, str act, float slope, float gain, float? clamp, bool needs_dx,"
    " bool needs_dbias) -> (Tensor, Tensor)",
    launch=_launch_derivative,
    fake=_fake_derivative,
    setup_context=_save_for_derivative,
    backward=_backward_of_derivative,
    is_gradient=True,
)

_curved_derivative = DifferentiableOp(
    "bias_act_curved_derivative(Tensor? g, Tensor? b, Tensor? h, Tensor x, Tensor? bias, str act, float gain,"
    " float? clamp, bool needs_dx, bool needs_dbias) -> (Tensor, Tensor)",
    launch=_launch_curved_derivative,
    fake=lambda g, b, h, x, *settings: _fake_derivative(g, b, x, *settings),
    setup_context=_save_for_curved_derivative,
    backward=_backward_of_curved_derivative,
    is_gradient=True,
)

_bias_act = DifferentiableOp(
    "bias_act(Tensor x, Tensor? bias, str act, float slope, float gain, float? clamp) -> Tensor",
    launch=_launch_forward,
    fake=lambda x, *_: empty_dense(x),
    setup_context=_save_for_backward,
    backward=_backward,
)


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "lrelu",
    negative_slope: float = 0.2,
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """Adds a bias, applies an activation, multiplies by a gain and clamps, in one pass.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        bias: [C], any floating-point type, or ``None``.
        act: ``"linear"``, ``"relu"``, ``"lrelu"``; ``"tanh"``, ``"sigmoid"``, ``"elu"``, ``"selu"``, ``"softplus"`` or
            ``"swish"``.
        negative_slope: slope of ``"lrelu"`` below zero; finite, at least 0.
        gain: finite, greater than 0. StyleGAN's layers use sqrt(2) (Karras et al. 2020, appendix B).
        clamp: limits y to [-clamp, clamp], rounded to the type of ``x``; at least 0, or ``None``. The gradient is 0
            where abs(y) >= clamp.

    Returns:
        y in the shape, type and layout of ``x``. With the first three activations differentiable to any order in ``x``
        and ``bias``; saves y, or nothing where the op is linear. With the others to the second order; saves ``x`` and
        ``bias``.

    Raises:
        ValueError: for a shape, device or value other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("bias_act", x)
    if bias is not None:
        check_operand("bias_act", "bias", bias, (x.shape[1],), x)
    check_activation("bias_act", act, negative_slope, allowed=ACTIVATIONS + CURVED_ACTIVATIONS)
    if not 0 < gain < math.inf:
        raise ValueError(f"bias_act: gain is {gain}, expected a finite number greater than 0")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"bias_act: clamp is {clamp}, expected None or a number of at least 0")
    if not runs_triton(x):
        return reference.bias_act(
            guard_second_order(x), bias, act=act, negative_slope=negative_slope, gain=gain, clamp=clamp
        )
    return _bias_act(x, bias, act, float(negative_slope), float(gain), None if clamp is None else float(clamp))
