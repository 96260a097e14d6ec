"""Points between real and generated samples, where WGAN-GP penalizes the critic (Gulrajani et al. 2017, algorithm 1).

    y = alpha * real + (1 - alpha) * fake,    with one alpha per sample
    dreal = alpha * dy,    dfake = (1 - alpha) * dy,    dalpha = sum(dy * (real - fake)) over the sample

The gradients are linear in each input. For cotangents h_real and h_fake of dreal and dfake, the gradient in dy is
therefore the op at h_real and h_fake, and the gradient in alpha is sum(dy * (h_real - h_fake)).
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
from fastgan_kernels.layout import dense, empty_dense, matrix_launch, program_tile, sample_rows
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials


@triton.jit
def _to_type_of(ptr, value):
    if ptr.dtype.element_ty == tl.bfloat16:
        value = value.to(tl.float32)  # Triton's interpreter cannot convert float64 to bfloat16 directly
    return value.to(ptr.dtype.element_ty)


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride"])
def _forward_kernel(
    real_ptr, fake_ptr, alpha_ptr, y_ptr, rows, col_groups, alpha_stride,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    tile, _, _, _ = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    alpha = tl.load(alpha_ptr + tile.row * alpha_stride, mask=tile.row < rows, other=0.0).to(COMPUTE)[:, None]
    real = tl.load(real_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    fake = tl.load(fake_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    y = alpha * real + (1.0 - alpha) * fake
    tl.store(y_ptr + tile.offset, _to_type_of(y_ptr, y), mask=tile.mask)


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride"])
def _backward_kernel(
    g_ptr, real_ptr, fake_ptr, alpha_ptr, dreal_ptr, dfake_ptr, partials_ptr, rows, col_groups, alpha_stride,
    COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The gradients in real and fake, and the sums for alpha over the part of each row in this tile, or None."""
    tile, _, col_tile, col_tiles = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    alpha = tl.load(alpha_ptr + tile.row * alpha_stride, mask=tile.row < rows, other=0.0).to(COMPUTE)[:, None]
    g = tl.load(g_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if dreal_ptr is not None:
        tl.store(dreal_ptr + tile.offset, _to_type_of(dreal_ptr, alpha * g), mask=tile.mask)
    if dfake_ptr is not None:
        tl.store(dfake_ptr + tile.offset, _to_type_of(dfake_ptr, (1.0 - alpha) * g), mask=tile.mask)
    if partials_ptr is not None:
        real = tl.load(real_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
        fake = tl.load(fake_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
        partial = tile.row * col_tiles + col_tile
        tl.store(partials_ptr + partial, tl.sum(g * (real - fake), axis=1), mask=tile.row < rows)


def _launch_forward(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    real = dense(real)
    y = torch.empty_like(real)
    if y.numel():
        launch = matrix_launch(*sample_rows(real), real.dtype)
        operands = real, dense(fake, like=real), alpha
        _forward_kernel[launch.tiling.grid](*operands, y, *launch.extents, alpha.stride(0), **launch.constants)
    return y


def _launch_backward(
    g: Tensor, real: Tensor | None, fake: Tensor | None, alpha: Tensor, fake_dtype: torch.dtype, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients; that in alpha, which alone needs ``real`` and ``fake``, in the type of the arithmetic."""
    g = dense(g)
    dreal, dfake, dalpha = (t if n else None for t, n in zip(_new_gradients(g, fake_dtype), needs, strict=True))
    if g.numel() == 0:
        return dreal, dfake, None if dalpha is None else dalpha.zero_()
    launch = matrix_launch(*sample_rows(g), g.dtype)
    partials = None
    if needs[2]:
        partials = dalpha.new_empty(1, len(g), launch.tiling.col_programs)
        real, fake = dense(real, like=g), dense(fake, like=g)
    else:
        real = fake = None
    _backward_kernel[launch.tiling.grid](
        g, real, fake, alpha, dreal, dfake, partials, *launch.extents, alpha.stride(0), **launch.constants
    )
    return dreal, dfake, None if partials is None else sum_partials(partials).view(dalpha.shape)


def _new_gradients(g: Tensor, fake_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    dalpha = g.new_empty(len(g), *(1,) * (g.dim() - 1), dtype=compute_dtype(g.dtype))
    return empty_dense(g), torch.empty_like(dense(g), dtype=fake_dtype), dalpha


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    ctx.save_for_backward(*inputs[:4])


def _double_backward(ctx: Any, u: Tensor | None, w: Tensor | None, e: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of <dreal, u> + <dfake, w> + <dalpha, e>.

    The op is linear in each of its inputs: without e, this is the op and its gradient again, at u and w.
    """
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
            dg = reference.sum_of(*terms)
        if needs_real and e is not None:
            dreal = along * g
        if needs_fake and e is not None:
            dfake = -along * g
        if needs_alpha and u is not None and w is not None:
            dalpha = _interpolate_backward(g, u, w, alpha, w.dtype, [False, False, True])[2]
        elif needs_alpha and (u is not None or w is not None):
            dalpha = (g.to(dtype) * (u if w is None else -w)).flatten(1).sum(1)
        return dg, dreal, dfake, None if dalpha is None else dalpha.reshape(alpha.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    real, fake, alpha = inputs
    ctx.fake_dtype = fake.dtype
    ctx.save_for_backward(alpha, *((real, fake) if ctx.needs_input_grad[2] else ()))


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    alpha, real, fake = (*ctx.saved_tensors, None, None)[:3]
    return _interpolate_backward(dy, real, fake, alpha, ctx.fake_dtype, list(ctx.needs_input_grad))


_interpolate_backward = DifferentiableOp(
    "interpolate_backward(Tensor g, Tensor? real, Tensor? fake, Tensor alpha, ScalarType fake_dtype, bool[] needs)"
    " -> (Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda g, real, fake, alpha, fake_dtype, needs: _new_gradients(g, fake_dtype),
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
            most 2^30 elements per sample.
        fake: like ``real``, any floating-point type; copied if its layout differs.
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
