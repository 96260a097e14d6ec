"""Points between real and generated samples, where WGAN-GP penalizes the critic (Gulrajani et al. 2017, algorithm 1).

    y = alpha * real + (1 - alpha) * fake,    with one alpha per sample
    dreal = alpha * dy,    dfake = (1 - alpha) * dy,    dalpha = sum(dy * (real - fake)) over the sample

The gradients are linear in each input. For cotangents u and w of dreal and dfake and e of dalpha,

    ddy = alpha * u + (1 - alpha) * w + e * (real - fake)
    dalpha = sum(dy * (u - w)),    dreal = e * dy,    dfake = -e * dy

which is the first gradient again at u, w and alpha, and, with 0 for the 1, at e. So is the derivative of ddy, and two
kernels make the gradients of every order.
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
from fastgan_kernels.launch import launch_kernel
from fastgan_kernels.layout import dense, empty_dense, matrix_launch, program_tile, sample_rows
from fastgan_kernels.precision import compute_dtype
from fastgan_kernels.reduction import sum_partials


@triton.jit
def _to_type_of(ptr, value):
    if ptr.dtype.element_ty == tl.bfloat16:
        value = value.to(tl.float32)  # Triton's interpreter cannot convert float64 to bfloat16 directly
    return value.to(ptr.dtype.element_ty)


@triton.jit
def _share(alpha_ptr, stride, tile, rows, COMPUTE: tl.constexpr):
    return tl.load(alpha_ptr + tile.row * stride, mask=tile.row < rows, other=0.0).to(COMPUTE)[:, None]


@triton.jit
def _between(real_ptr, fake_ptr, alpha, tile, TOTAL: tl.constexpr, COMPUTE: tl.constexpr):
    """alpha * real + (TOTAL - alpha) * fake. An absent operand is None."""
    y = tl.zeros(tile.mask.shape, dtype=COMPUTE)
    if real_ptr is not None:
        y += alpha * tl.load(real_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if fake_ptr is not None:
        y += (TOTAL - alpha) * tl.load(fake_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    return y


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride", "e_stride"])
def _forward_kernel(
    u_ptr, w_ptr, alpha_ptr, e_ptr, real_ptr, fake_ptr, y_ptr, rows, col_groups, alpha_stride, e_stride,
    TOTAL: tl.constexpr, COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """y = alpha * u + (TOTAL - alpha) * w + e * (real - fake). An absent operand is None."""
    tile, _, _, _ = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    y = _between(u_ptr, w_ptr, _share(alpha_ptr, alpha_stride, tile, rows, COMPUTE), tile, TOTAL, COMPUTE)
    if e_ptr is not None:
        y += _between(real_ptr, fake_ptr, _share(e_ptr, e_stride, tile, rows, COMPUTE), tile, 0.0, COMPUTE)
    tl.store(y_ptr + tile.offset, _to_type_of(y_ptr, y), mask=tile.mask)


@triton.jit(do_not_specialize=["rows", "col_groups", "alpha_stride"])
def _backward_kernel(
    g_ptr, real_ptr, fake_ptr, alpha_ptr, dreal_ptr, dfake_ptr, partials_ptr, rows, col_groups, alpha_stride,
    TOTAL: tl.constexpr, COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """dreal = alpha * g, dfake = (TOTAL - alpha) * g, and the sums of g * (real - fake) over each row of this tile.

    An output that is not needed is None.
    """
    tile, _, col_tile, col_tiles = program_tile(rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    alpha = _share(alpha_ptr, alpha_stride, tile, rows, COMPUTE)
    g = tl.load(g_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if partials_ptr is not None:
        partial = tile.row * col_tiles + col_tile
        total = tl.sum(g * _between(real_ptr, fake_ptr, 1.0, tile, 0.0, COMPUTE), axis=1)
        tl.store(partials_ptr + partial, total, mask=tile.row < rows)
    if dreal_ptr is not None:
        tl.store(dreal_ptr + tile.offset, _to_type_of(dreal_ptr, alpha * g), mask=tile.mask)
    if dfake_ptr is not None:
        tl.store(dfake_ptr + tile.offset, _to_type_of(dfake_ptr, (TOTAL - alpha) * g), mask=tile.mask)


def _launch_forward(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return _launch_double_backward(real, real, fake, alpha, None, None, None, 1.0)


def _launch_double_backward(
    g: Tensor, u: Tensor | None, w: Tensor | None, alpha: Tensor, e: Tensor | None, real: Tensor | None,
    fake: Tensor | None, total: float,
) -> Tensor:  # fmt: skip
    """alpha * u + (total - alpha) * w + e * (real - fake), in the shape, type and layout of g."""
    g = dense(g)
    y = torch.empty_like(g)
    if y.numel():
        launch = matrix_launch(*sample_rows(g), g.dtype)
        u, w, real, fake = (dense(t, like=g) for t in (u, w, real, fake))
        launch_kernel(
            _forward_kernel, launch.tiling.grid, (u, w, alpha, e, real, fake, y),
            (*launch.extents, alpha.stride(0), 0 if e is None else e.stride(0)), TOTAL=total, **launch.constants,
        )  # fmt: skip
    return y


def _launch_backward(
    g: Tensor, real: Tensor | None, fake: Tensor | None, alpha: Tensor, fake_dtype: torch.dtype, total: float,
    needs: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    """The gradients; that in alpha, for which there are ``real`` and ``fake``, in the type of the arithmetic."""
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
    launch_kernel(
        _backward_kernel, launch.tiling.grid, (g, real, fake, alpha, dreal, dfake, partials),
        (*launch.extents, alpha.stride(0)), TOTAL=total, **launch.constants,
    )  # fmt: skip
    return dreal, dfake, None if partials is None else sum_partials(partials).view(dalpha.shape)


def _new_gradients(g: Tensor, fake_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    dalpha = g.new_empty(len(g), *(1,) * (g.dim() - 1), dtype=compute_dtype(g.dtype))
    return empty_dense(g), torch.empty_like(dense(g), dtype=fake_dtype), dalpha


def _dtype(fake: Tensor | None, g: Tensor) -> torch.dtype:
    return (g if fake is None else fake).dtype


def _save_for_triple_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, *tensors, ctx.total = inputs
    ctx.save_for_backward(*tensors)


def _triple_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    u, w, alpha, e, real, fake = ctx.saved_tensors
    _, *of_first, needs_e, needs_real, needs_fake, _ = ctx.needs_input_grad
    of_second = [needs_real, needs_fake, needs_e]
    du = dw = dalpha = dreal = dfake = de = None
    if any(of_first):
        du, dw, dalpha = _interpolate_backward(h, u, w, alpha, _dtype(w, h), ctx.total, of_first)
    if any(of_second):
        dreal, dfake, de = _interpolate_backward(h, real, fake, e, _dtype(fake, h), 0.0, of_second)
    return None, du, dw, dalpha, de, dreal, dfake


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    *tensors, _, ctx.total, _ = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, u: Tensor | None, w: Tensor | None, e: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of <dreal, u> + <dfake, w> + <dalpha, e>."""
    g, real, fake, alpha = ctx.saved_tensors
    needs_g, needs_real, needs_fake, needs_alpha = ctx.needs_input_grad[:4]
    dg = dreal = dfake = dalpha = None
    if needs_g:
        images = (None, None) if e is None else (real, fake)
        dg = _interpolate_double_backward(g, u, w, alpha, e, *images, ctx.total)
    if e is not None and (needs_real or needs_fake):
        needs = [needs_real, needs_fake, False]
        dreal, dfake, _ = _interpolate_backward(g, None, None, e, _dtype(fake, g), 0.0, needs)
    if needs_alpha and (u is not None or w is not None):
        *_, dalpha = _interpolate_backward(g, u, w, alpha, g.dtype, ctx.total, [False, False, True])
    return dg, dreal, dfake, dalpha


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    real, fake, alpha = inputs
    ctx.fake_dtype = fake.dtype
    ctx.save_for_backward(alpha, *((real, fake) if ctx.needs_input_grad[2] else ()))


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    alpha, real, fake = (*ctx.saved_tensors, None, None)[:3]
    return _interpolate_backward(dy, real, fake, alpha, ctx.fake_dtype, 1.0, list(ctx.needs_input_grad))


_interpolate_double_backward = DifferentiableOp(
    "interpolate_double_backward(Tensor g, Tensor? u, Tensor? w, Tensor alpha, Tensor? e, Tensor? real, Tensor? fake,"
    " float total) -> Tensor",
    launch=_launch_double_backward,
    fake=lambda g, *_: empty_dense(g),
    setup_context=_save_for_triple_backward,
    backward=_triple_backward,
    is_gradient=True,
)

_interpolate_backward = DifferentiableOp(
    "interpolate_backward(Tensor g, Tensor? real, Tensor? fake, Tensor alpha, ScalarType fake_dtype, float total,"
    " bool[] needs) -> (Tensor, Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda g, real, fake, alpha, fake_dtype, *_: _new_gradients(g, fake_dtype),
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
        every order is fused. Saves alpha, and real and fake where alpha requires a gradient.

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
