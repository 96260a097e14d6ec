"""Points between real and generated samples, where WGAN-GP penalises the critic (Gulrajani et al. 2017, algorithm 1).

    y = alpha * real + (1 - alpha) * fake,    alpha one number a sample
    dreal = alpha * dy,    dfake = (1 - alpha) * dy,    dalpha = sum(dy * (real - fake)) over the sample

All of it is linear in each of its inputs, and so what h towards dreal and dfake leave is the same again: the op at them
for dy, the sum of dy * (h_real - h_fake) for alpha.

Saved for backward: alpha; real and fake only where alpha has a gradient.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_operand, check_samples
from fastgan_kernels.layout import dense, empty_dense, sample_rows, tile_of_matrix
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import MatrixTiling, alignment, matrix_tiling


@triton.jit
def _to_type_of(ptr, value):
    if ptr.dtype.element_ty == tl.bfloat16:
        value = value.to(tl.float32)  # on the way from float64: Triton's interpreter knows no other
    return value.to(ptr.dtype.element_ty)


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride"])
def _forward_kernel(
    real_ptr, fake_ptr, alpha_ptr, y_ptr, rows, col_groups, alpha_stride,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    col_tiles = tl.cdiv(col_groups * COL_ALIGN, BLOCK_COLS)
    pid = tl.program_id(0)
    row, _, offset, mask = tile_of_matrix(
        pid // col_tiles, pid % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    alpha = tl.load(alpha_ptr + row * alpha_stride, mask=row < rows, other=0.0).to(COMPUTE)[:, None]
    real = tl.load(real_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    fake = tl.load(fake_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    y = alpha * real + (1.0 - alpha) * fake
    tl.store(y_ptr + offset, _to_type_of(y_ptr, y), mask=mask)


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride"])
def _backward_kernel(
    g_ptr, real_ptr, fake_ptr, alpha_ptr, dreal_ptr, dfake_ptr, partials_ptr, rows, col_groups, alpha_stride,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The gradients in real and fake, and the sums for alpha over the part of each row in this tile, or None."""
    col_tiles = tl.cdiv(col_groups * COL_ALIGN, BLOCK_COLS)
    pid = tl.program_id(0)
    row, _, offset, mask = tile_of_matrix(
        pid // col_tiles, pid % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    alpha = tl.load(alpha_ptr + row * alpha_stride, mask=row < rows, other=0.0).to(COMPUTE)[:, None]
    g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    if dreal_ptr is not None:
        tl.store(dreal_ptr + offset, _to_type_of(dreal_ptr, alpha * g), mask=mask)
    if dfake_ptr is not None:
        tl.store(dfake_ptr + offset, _to_type_of(dfake_ptr, (1.0 - alpha) * g), mask=mask)
    if partials_ptr is not None:
        real = tl.load(real_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        fake = tl.load(fake_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        tl.store(partials_ptr + (row * col_tiles + pid % col_tiles), tl.sum(g * (real - fake), axis=1), mask=row < rows)


def _tiles(x: Tensor) -> tuple[MatrixTiling, tuple[int, int], dict[str, Any]]:
    """The tiling of a dense ``x``, its rows and groups of columns, and the constants of both kernels."""
    rows, cols = sample_rows(x)
    align = alignment(cols)
    tiling = matrix_tiling(rows, cols, x.element_size())
    constants = {
        "COMPUTE": triton_compute_dtype(x.dtype),
        "COL_ALIGN": align,
        "BLOCK_ROWS": tiling.block_rows,
        "BLOCK_COLS": tiling.block_cols,
        "num_warps": tiling.num_warps,
    }
    return tiling, (rows, cols // align), constants


def _launch_forward(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    real = dense(real)
    y = torch.empty_like(real)
    if y.numel() == 0:
        return y
    tiling, extents, constants = _tiles(real)
    _forward_kernel[tiling.grid](real, dense(fake, like=real), alpha, y, *extents, alpha.stride(0), **constants)
    return y


def _launch_backward(
    g: Tensor, real: Tensor | None, fake: Tensor | None, alpha: Tensor, fake_dtype: torch.dtype,
    needs_real: bool, needs_fake: bool, needs_alpha: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients; that in alpha in the type of the arithmetic. ``real`` and ``fake`` serve it alone."""
    g = dense(g)
    dreal, dfake, dalpha = _empty_gradients(g, fake_dtype, needs_real, needs_fake, needs_alpha)
    if g.numel() == 0:
        return dreal, dfake, dalpha.zero_()
    tiling, extents, constants = _tiles(g)
    partials = g.new_empty(1, len(g), tiling.col_programs, dtype=dalpha.dtype) if needs_alpha else None
    _backward_kernel[tiling.grid](
        g,
        dense(real, like=g) if needs_alpha else None,
        dense(fake, like=g) if needs_alpha else None,
        alpha,
        dreal if needs_real else None,
        dfake if needs_fake else None,
        partials,
        *extents,
        alpha.stride(0),
        **constants,
    )
    return dreal, dfake, dalpha if partials is None else sum_partials(partials).view(dalpha.shape)


def _empty_gradients(
    g: Tensor, fake_dtype: torch.dtype, needs_real: bool, needs_fake: bool, needs_alpha: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        empty_dense(g) if needs_real else g.new_empty(0),
        torch.empty_like(dense(g), dtype=fake_dtype) if needs_fake else g.new_empty(0, dtype=fake_dtype),
        g.new_empty((len(g), *(1,) * (g.dim() - 1)) if needs_alpha else 0, dtype=compute_dtype(g.dtype)),
    )


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    g, real, fake, alpha, ctx.fake_dtype, *ctx.has_gradients = inputs
    ctx.save_for_backward(g, real, fake, alpha)


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of <dreal, u> + <dfake, w> + <dalpha, e>.

    The op is linear in each of its inputs: without e, this is the op and its gradient again, at u and w.
    """
    # An output that was not asked for is empty, and so is what comes back for it.
    u, w, e = (t if has else None for t, has in zip(cotangents, ctx.has_gradients, strict=True))
    g, real, fake, alpha = ctx.saved_tensors
    needs_g, needs_real, needs_fake, needs_alpha = ctx.needs_input_grad[:4]
    dtype = compute_dtype(g.dtype)
    dg = dreal = dfake = dalpha = None

    with reference.no_autocast(g):
        along = None if e is None else e.to(dtype).reshape(alpha.shape)
        if needs_g and e is None and u is not None and w is not None:
            dg = _interpolate(u, w, alpha)
        elif needs_g:
            share = alpha.to(dtype)
            terms = (
                None if u is None else share * u,
                None if w is None else (1 - share) * w,
                None if e is None else along * (real.to(dtype) - fake),
            )
            present = [t for t in terms if t is not None]
            dg = sum(present[1:], present[0]).to(g.dtype) if present else None
        if needs_real and e is not None:
            dreal = (along * g).to(real.dtype)
        if needs_fake and e is not None:
            dfake = (-along * g).to(fake.dtype)
        if needs_alpha and u is not None and w is not None:
            dalpha = _interpolate_backward(g, u, w, alpha, w.dtype, False, False, True)[2]
        elif needs_alpha and (u is not None or w is not None):
            dalpha = (g.to(dtype) * (u if w is None else -w)).flatten(1).sum(1)
        dalpha = None if dalpha is None else dalpha.reshape(alpha.shape).to(alpha.dtype)
        return dg, dreal, dfake, dalpha, *(None,) * 4


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    real, fake, alpha = inputs
    ctx.fake_dtype = fake.dtype
    ctx.save_for_backward(alpha, *((real, fake) if ctx.needs_input_grad[2] else ()))


def _backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return None, None, None
    alpha, real, fake = (*ctx.saved_tensors, None, None)[:3]
    needs = ctx.needs_input_grad
    dreal, dfake, dalpha = _interpolate_backward(dy, real, fake, alpha, ctx.fake_dtype, *needs)
    return (
        dreal if needs[0] else None,
        dfake if needs[1] else None,
        dalpha.to(alpha.dtype) if needs[2] else None,
    )


_interpolate_backward = DifferentiableOp(
    "interpolate_backward(Tensor g, Tensor? real, Tensor? fake, Tensor alpha, ScalarType fake_dtype, bool needs_real,"
    " bool needs_fake, bool needs_alpha) -> (Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda g, real, fake, alpha, fake_dtype, *needs: _empty_gradients(g, fake_dtype, *needs),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_interpolate = DifferentiableOp(
    "interpolate(Tensor real, Tensor fake, Tensor alpha) -> Tensor",
    launch=_launch_forward,
    fake=lambda real, *_: empty_dense(real),
    setup_context=_save_for_backward,
    backward=_backward,
)


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor | None = None) -> Tensor:
    """A point on the line between each real and each generated sample.

    Args:
        real: [N, ...], two axes or more, any floating-point type; contiguous and channels-last are read as they are. At
            most 2^30 elements a sample.
        fake: as ``real``, in any floating-point type; copied once where its layout is another.
        alpha: [N, 1, ...], with as many axes as ``real``, any floating-point type: the share of ``real`` in each
            sample. Where ``None``, drawn from [0, 1) with ``torch.rand`` on the device of ``real``, so that
            ``torch.manual_seed`` governs it.

    Returns:
        alpha * real + (1 - alpha) * fake in the type and layout of ``real``. Differentiable to any order in all three;
        the first gradient is fused, and so are the higher ones of dreal and dfake together; those of dalpha are torch
        operations. Saves alpha, and real and fake where alpha requires a gradient.

    Raises:
        ValueError: for a shape or device other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_samples("interpolate", "real", real)
    check_operand("interpolate", "fake", fake, real.shape, real, name_of_x="real")
    shape = (len(real), *(1,) * (real.dim() - 1))
    if alpha is None:
        alpha = torch.rand(shape, dtype=compute_dtype(real.dtype), device=real.device)
    check_operand("interpolate", "alpha", alpha, shape, real, name_of_x="real")
    if not runs_triton(real):
        return reference.interpolate(guard_second_order(real), fake, alpha)
    return _interpolate(real, fake, alpha)
