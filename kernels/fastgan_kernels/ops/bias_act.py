"""Bias, activation, gain and clamp in one pass.

    y = clamp(gain * act(x + bias))

The derivative m depends only on the output: its sign gives the branch of the activation, its size whether it was
clamped. So only y is saved. The first gradient is D(dy, 0), where the linear map

    D(g, b) = (m(y) * (g + b), the same summed over all axes except the channels)

is symmetric in (g, b): it is its own derivative, and gradients of every order are this one fused pass.

The curved activations (tanh, sigmoid ...) save x and the bias instead and compute u = x + bias again. With f = act,
made constant where the output is clamped, their first gradient in u is gain * f'(u) * dy, linear in dy. The derivative
of that, for a cotangent h, is gain * f'(u) * h in dy and gain * f''(u) * h * dy in u. A third order raises.
"""

import math
from collections.abc import Sequence
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
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import contiguous, dense, empty_dense, matrix_launch, matrix_of, program_tile
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials


@triton.jit
def _per_channel(
    ptr, tile, row_tile, channels, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, BLOCK_ROWS: tl.constexpr
):
    """The bias of each column (channels-last) or row of a tile, shaped to broadcast."""
    if CHANNELS_LAST:
        return tl.load(ptr + tile.col, mask=tile.col < channels, other=0.0).to(COMPUTE)[None, :]
    else:
        # In 32 bits, enough for contiguous rows; rows beyond the end wrap around to a channel that exists.
        row = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        return tl.load(ptr + row % channels).to(COMPUTE)[:, None]


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _forward_kernel(
    x_ptr, bias_ptr, y_ptr, rows, col_groups, channels,
    ACT: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tile, row_tile, _, _ = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    y = tl.load(x_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if bias_ptr is not None:
        y += _per_channel(bias_ptr, tile, row_tile, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    y = activate(y, ACT, SLOPE, COMPUTE)
    y *= tl.full((), GAIN, COMPUTE)
    if CLAMP is not None:
        # The backward pass compares the stored output, so this compares what will be stored.
        y = y.to(y_ptr.dtype.element_ty).to(COMPUTE)
        limit = tl.full((), CLAMP, COMPUTE)
        y = tl.where(tl.abs(y) >= limit, tl.where(y > 0, limit, -limit), y)
    tl.store(y_ptr + tile.offset, y.to(y_ptr.dtype.element_ty), mask=tile.mask)


@triton.jit
def _gradient_sum(
    g_ptr, b_ptr, tile, row_tile, channels, GAIN: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """gain * (g + b); an absent operand is None."""
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLS], dtype=COMPUTE)
    if g_ptr is not None:
        total += tl.load(g_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if b_ptr is not None:
        total += _per_channel(b_ptr, tile, row_tile, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    return total * tl.full((), GAIN, COMPUTE)


@triton.jit
def _store_gradients(
    dx_ptr, partials_ptr, dx, tile, row_tile, col_tile, col_tiles, rows, cols, CHANNELS_LAST: tl.constexpr
):
    """dx, and its sums over the part of each channel in this tile; an output that is not needed is None."""
    if dx_ptr is not None:
        tl.store(dx_ptr + tile.offset, dx.to(dx_ptr.dtype.element_ty), mask=tile.mask)
    if partials_ptr is not None:
        dx = tl.where(tile.mask, dx, 0.0)
        if CHANNELS_LAST:
            partial = row_tile.to(tl.int64) * cols + tile.col
            tl.store(partials_ptr + partial, tl.sum(dx, axis=0), mask=tile.col < cols)
        else:
            tl.store(partials_ptr + tile.row * col_tiles + col_tile, tl.sum(dx, axis=1), mask=tile.row < rows)


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _backward_kernel(
    g_ptr, b_ptr, y_ptr, dx_ptr, partials_ptr, rows, col_groups, channels,
    ACT: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """dx = m(y) * (g + b). Where m is a constant, y is None."""
    tile, row_tile, col_tile, col_tiles = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    dx = _gradient_sum(g_ptr, b_ptr, tile, row_tile, channels, GAIN, CHANNELS_LAST, COMPUTE, BLOCK_ROWS, BLOCK_COLS)
    if y_ptr is not None:
        y = tl.load(y_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
        dx = through_activation(dx, y, ACT, SLOPE, COMPUTE)
        if CLAMP is not None:
            dx = tl.where(tl.abs(y) >= tl.full((), CLAMP, COMPUTE), 0.0, dx)
    cols = col_groups * COL_ALIGN
    _store_gradients(dx_ptr, partials_ptr, dx, tile, row_tile, col_tile, col_tiles, rows, cols, CHANNELS_LAST)


@triton.jit(do_not_specialize=["rows", "col_groups", "channels"])
def _curved_backward_kernel(
    g_ptr, b_ptr, h_ptr, x_ptr, bias_ptr, dx_ptr, partials_ptr, rows, col_groups, channels,
    ACT: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """dx = gain * f'(u) * (g + b), or gain * f''(u) * (g + b) * h where there is an h."""
    tile, row_tile, col_tile, col_tiles = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    u = tl.load(x_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if bias_ptr is not None:
        u += _per_channel(bias_ptr, tile, row_tile, channels, CHANNELS_LAST, COMPUTE, BLOCK_ROWS)
    dx = _gradient_sum(g_ptr, b_ptr, tile, row_tile, channels, GAIN, CHANNELS_LAST, COMPUTE, BLOCK_ROWS, BLOCK_COLS)
    if h_ptr is None:
        dx *= curved_activation(u, ACT, 1, COMPUTE)
    else:
        dx *= curved_activation(u, ACT, 2, COMPUTE)
        dx *= tl.load(h_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if CLAMP is not None:
        y = tl.full((), GAIN, COMPUTE) * curved_activation(u, ACT, 0, COMPUTE)
        y = y.to(x_ptr.dtype.element_ty).to(COMPUTE)
        dx = tl.where(tl.abs(y) >= tl.full((), CLAMP, COMPUTE), 0.0, dx)
    cols = col_groups * COL_ALIGN
    _store_gradients(dx_ptr, partials_ptr, dx, tile, row_tile, col_tile, col_tiles, rows, cols, CHANNELS_LAST)


def _round_to(value: float | None, dtype: torch.dtype) -> float | None:
    return None if value is None else torch.tensor(value, dtype=dtype).item()


def _launch_forward(x: Tensor, bias: Tensor | None, act: str, slope: float, gain: float, clamp: float | None) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if y.numel():
        launch = _forward_launch(x.shape, x.is_contiguous(), x.dtype, act, slope, gain, clamp)
        launch(x, contiguous(bias), y)
    return y


@decided_once
def _forward_launch(
    shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, act: str, slope: float, gain: float,
    clamp: float | None,
) -> Launch:  # fmt: skip
    m = matrix_of(shape, is_contiguous)
    tiling, extents, constants = matrix_launch(m.rows, m.cols, dtype)
    return Launch(
        _forward_kernel, tiling.grid, (*extents, m.channels),
        ACT=act, SLOPE=slope, GAIN=gain, CLAMP=_round_to(clamp, dtype), CHANNELS_LAST=m.channels_last, **constants,
    )  # fmt: skip


def _run_backward(
    operands: tuple[Tensor | None, ...], like: Tensor, settings: tuple[Any, ...], needs: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Launches a kernel of gradients on operands in the layout of the dense ``like``: dx and dbias."""
    needs_dx, needs_dbias = needs
    dx = torch.empty_like(like) if needs_dx else None
    dtype = compute_dtype(like.dtype)
    if like.numel() == 0:
        return dx, like.new_zeros(like.shape[1], dtype=dtype) if needs_dbias else None
    launch, shape = _backward_launch(like.shape, like.is_contiguous(), like.dtype, needs_dbias, *settings)
    partials = like.new_empty(shape, dtype=dtype) if needs_dbias else None
    launch(*operands, dx, partials)
    return dx, None if partials is None else sum_partials(partials)


@decided_once
def _backward_launch(
    shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, needs_dbias: bool, act: str, slope: float | None,
    gain: float, clamp: float | None,
) -> tuple[Launch, tuple[int, int, int]]:  # fmt: skip
    """A launch, and the shape of its partial sums."""
    m = matrix_of(shape, is_contiguous)
    tiling, extents, constants = matrix_launch(m.rows, m.cols, dtype, column_sums=needs_dbias and m.channels_last)
    kernel = _backward_kernel
    if act in CURVED_ACTIVATIONS:
        kernel = _curved_backward_kernel
    else:
        constants = {"SLOPE": slope, **constants}
    launch = Launch(
        kernel, tiling.grid, (*extents, m.channels),
        ACT=act, GAIN=gain, CLAMP=_round_to(clamp, dtype), CHANNELS_LAST=m.channels_last, **constants,
    )  # fmt: skip
    if m.channels_last:
        return launch, (tiling.row_programs, m.channels, 1)
    return launch, (m.rows // m.channels, m.channels, tiling.col_programs)


def _launch_backward(
    g: Tensor | None, b: Tensor | None, y: Tensor, act: str, slope: float, gain: float, clamp: float | None,
    needs: list[bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """D(g, b)."""
    y = dense(y)
    operands = dense(g, like=y), contiguous(b), None if act == "linear" and clamp is None else y
    return _run_backward(operands, y, (act, slope, gain, clamp), needs)


def _launch_curved_backward(
    g: Tensor | None, b: Tensor | None, h: Tensor | None, x: Tensor, bias: Tensor | None, act: str, gain: float,
    clamp: float | None, needs: list[bool],
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    x = dense(x)
    operands = dense(g, like=x), contiguous(b), dense(h, like=x), x, contiguous(bias)
    return _run_backward(operands, x, (act, None, gain, clamp), needs)


def _new_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return empty_dense(x), x.new_empty(x.shape[1], dtype=compute_dtype(x.dtype))


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    _, _, y, *ctx.settings, _ = inputs
    ctx.save_for_backward(y)


def _double_backward(ctx: Any, g: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
    return _bias_act_backward(g, b, *ctx.saved_tensors, *ctx.settings, list(ctx.needs_input_grad[:2]))


def _save_for_curved_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    g, b, h, x, bias, *ctx.settings, _ = inputs
    ctx.is_first = b is None and h is None
    if ctx.is_first:
        ctx.save_for_backward(g, x, bias)


def _curved_double_backward(ctx: Any, g: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
    if not ctx.is_first:
        refuse_third_order(f"bias_act with {ctx.settings[0]}")(ctx)
    dy, x, bias = ctx.saved_tensors
    needs_dy, _, _, *needs = ctx.needs_input_grad[:5]
    ddy = dx = dbias = None
    if needs_dy:
        ddy, _ = _bias_act_curved_backward(g, b, None, x, bias, *ctx.settings, [True, False])
    if any(needs):
        dx, dbias = _bias_act_curved_backward(g, b, dy, x, bias, *ctx.settings, needs)
    return ddy, None, None, dx, dbias


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, bias, *ctx.settings = inputs
    act, _, _, clamp = ctx.settings
    if act in CURVED_ACTIVATIONS:
        ctx.save_for_backward(x, bias)
    else:
        # A purely linear op has a constant derivative.
        ctx.save_for_backward(*(() if act == "linear" and clamp is None else (y,)))


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    act, _, gain, clamp = ctx.settings
    # Read once: under torch.utils.checkpoint saved tensors can be unpacked only once.
    saved, needs = ctx.saved_tensors, list(ctx.needs_input_grad[:2])
    if act in CURVED_ACTIVATIONS:
        return _bias_act_curved_backward(dy, None, None, *saved, act, gain, clamp, needs)
    return _bias_act_backward(dy, None, saved[0] if saved else dy, *ctx.settings, needs)


_bias_act_backward = DifferentiableOp(
    "bias_act_backward(Tensor? g, Tensor? b, Tensor y, str act, float slope, float gain, float? clamp, bool[] needs)"
    " -> (Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda g, b, y, *_: _new_gradients(y),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_bias_act_curved_backward = DifferentiableOp(
    "bias_act_curved_backward(Tensor? g, Tensor? b, Tensor? h, Tensor x, Tensor? bias, str act, float gain,"
    " float? clamp, bool[] needs) -> (Tensor, Tensor)",
    launch=_launch_curved_backward,
    fake=lambda g, b, h, x, *_: _new_gradients(x),
    setup_context=_save_for_curved_double_backward,
    backward=_curved_double_backward,
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
