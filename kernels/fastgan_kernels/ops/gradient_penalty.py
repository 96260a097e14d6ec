"""Norms of a discriminator's gradients with respect to its input, and the penalties on them.

With s_n the L2 norm of sample n of G [N, ...] and u_n = G_n / s_n, where s_n = 0 the zero vector,

    gradient_norms(G) = s,    gradient_penalty(G) = 1/N sum_n (s_n - target)^2  or, one-sided,  max(0, s_n - target)^2.

Both are sums of a function f of the norm. With the incoming gradient as a factor of f, the first gradient is

    dG_n = f' u_n,

and for a cotangent v of dG the second order has the slope of f across u_n and its curvature along u_n:

    d<dG, v>/dG_n = f'/s_n (v_n - <u_n, v_n> u_n) + f'' <u_n, v_n> u_n.

With target 0, the zero-centered penalty, f'/s_n = f'' is a constant, at a zero gradient too: dG = f'' G.

Gulrajani et al. 2017, eq. 3 (target 1); Petzka et al. 2018, eq. 8 (one-sided); Mescheder et al. 2018, eq. 9 and 10
(zero-centered: R1, R2); Kodali et al. 2017 (DRAGAN).
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_samples
from fastgan_kernels.launch import launch_kernel
from fastgan_kernels.layout import dense, empty_dense, matrix_launch, sample_rows, tile_of_matrix, tiles_of_span
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import alignment, cdiv, next_power_of_2, row_tiling

# In all kernels TARGET is None where f is the norm itself.


@triton.jit(do_not_specialize=["rows", "col_groups", "tiles"])
def _dot_kernel(
    a_ptr, b_ptr, partials_ptr, rows, col_groups, tiles,
    SQUARE_ROOT: tl.constexpr, COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """<a_n, b_n> over one span of each row: partials [rows, spans]. b is None where it is a."""
    row_tile = tl.program_id(0)
    span = tl.program_id(1)
    start, stop = tiles_of_span(span, tiles, col_groups * COL_ALIGN, BLOCK_COLS)
    # Every thread keeps a sum for the 16 bytes of an access; threads combine theirs only at the end.
    ACCESS: tl.constexpr = min(COL_ALIGN, 128 // a_ptr.dtype.element_ty.primitive_bitwidth)
    of_access = tl.zeros([BLOCK_ROWS, BLOCK_COLS // ACCESS], dtype=COMPUTE)
    for tile in range(start, stop):
        place = tile_of_matrix(row_tile, tile, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
        a = tl.load(a_ptr + place.offset, mask=place.mask, other=0.0).to(COMPUTE)
        b = a if b_ptr is None else tl.load(b_ptr + place.offset, mask=place.mask, other=0.0).to(COMPUTE)
        of_access += tl.sum(tl.reshape(a * b, [BLOCK_ROWS, BLOCK_COLS // ACCESS, ACCESS]), axis=2)
    dot = tl.sum(of_access, axis=1)
    if SQUARE_ROOT:
        dot = tl.sqrt(dot)
    row = row_tile.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tl.store(partials_ptr + (row * tl.num_programs(1) + span), dot, mask=row < rows)


@triton.jit
def _sums_of_spans(partials_ptr, row, exists, spans, BLOCK_SPANS: tl.constexpr):
    span = tl.arange(0, BLOCK_SPANS)
    offset = row[:, None] * spans + span[None, :]
    mask = exists[:, None] & (span < spans)[None, :]
    return tl.sum(tl.load(partials_ptr + offset, mask=mask, other=0.0), axis=1)


@triton.jit
def _excess(norm, TARGET: tl.constexpr, ONE_SIDED: tl.constexpr, COMPUTE: tl.constexpr):
    excess = norm - tl.full((), TARGET, COMPUTE)
    if ONE_SIDED:
        excess = tl.where(excess <= 0, 0.0, excess)  # compared this way round so that NaN passes
    return excess


@triton.jit
def _inverse(norm):
    zero = norm == 0
    return tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, norm))


@triton.jit(do_not_specialize=["rows", "spans"])
def _rows_kernel(
    partials_ptr, norms_ptr, sums_ptr, out_ptr, rows, spans,
    TARGET: tl.constexpr, ONE_SIDED: tl.constexpr, COMPUTE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_SPANS: tl.constexpr,
):  # fmt: skip
    """What follows from the sums of all spans; ``out_ptr`` is None where only the sums are needed.

    Of squares, where there are no norms yet: these, at ``sums_ptr``, and the penalty. Of <v_n, G_n>: the gradient of
    the incoming gradient, which is <v_n, u_n> for a norm. A penalty and its gradient are one number, of one program.
    """
    of_lane = tl.zeros([BLOCK_ROWS], dtype=COMPUTE)
    for start in range(tl.program_id(0) * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        exists = row < rows
        sums = _sums_of_spans(partials_ptr, row, exists, spans, BLOCK_SPANS)
        if norms_ptr is None:
            norm = tl.sqrt(sums)
            tl.store(sums_ptr + row, norm, mask=exists)
        else:
            tl.store(sums_ptr + row, sums, mask=exists)
            norm = tl.load(norms_ptr + row, mask=exists, other=0.0)
        if out_ptr is not None:
            if TARGET is None:
                tl.store(out_ptr + row, sums * _inverse(norm), mask=exists)
            elif TARGET == 0.0:
                of_lane += sums
            else:
                excess = _excess(norm, TARGET, ONE_SIDED, COMPUTE)
                of_lane += excess * (tl.where(exists, excess, 0.0) if norms_ptr is None else sums * _inverse(norm))
    if out_ptr is not None and TARGET is not None:
        total = tl.sum(of_lane, axis=0) if norms_ptr is None else tl.sum(of_lane, axis=0) * tl.full((), 2.0, COMPUTE)
        tl.store(out_ptr, total / rows)


@triton.jit(do_not_specialize=["rows", "col_groups", "d_stride"])
def _backward_kernel(
    d_ptr, gradients_ptr, norms_ptr, v_ptr, dots_ptr, out_ptr, rows, col_groups, d_stride,
    TARGET: tl.constexpr, ONE_SIDED: tl.constexpr, COMPUTE: tl.constexpr, COL_ALIGN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """The first gradient, dG; with v, the gradient of <dG, v> in G."""
    # In reverse: a pass over G often precedes, whose last rows L2 still holds.
    col_tiles = tl.cdiv(col_groups * COL_ALIGN, BLOCK_COLS)
    program = tl.num_programs(0) - 1 - tl.program_id(0)
    tile = tile_of_matrix(
        program // col_tiles, program % col_tiles, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS
    )
    # Feature maps first, so that they are on the way while the numbers of rows are waited for.
    source_ptr = v_ptr if TARGET == 0.0 and v_ptr is not None else gradients_ptr
    source = tl.load(source_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    row, exists = tile.row, tile.row < rows
    norm = tl.load(norms_ptr + row, mask=exists, other=0.0)
    # The first two derivatives of f, times the incoming gradient d.
    slope = tl.load(d_ptr + row * d_stride, mask=exists, other=0.0).to(COMPUTE)
    curvature = tl.zeros([BLOCK_ROWS], dtype=COMPUTE)
    if TARGET is not None:
        curvature = slope * tl.full((), 2.0, COMPUTE) / rows
        excess = _excess(norm, TARGET, ONE_SIDED, COMPUTE)
        slope = curvature * excess
        if ONE_SIDED:
            curvature = tl.where(excess == 0, 0.0, curvature)
    if TARGET == 0.0:
        out = source * curvature[:, None]
    else:
        inverse = _inverse(norm)
        unit = source * inverse[:, None]
        if v_ptr is None:
            out = slope[:, None] * unit
        else:
            across = slope * inverse
            along = (curvature - across) * (tl.load(dots_ptr + row, mask=exists, other=0.0) * inverse)
            v = tl.load(v_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
            out = across[:, None] * v + along[:, None] * unit
    tl.store(out_ptr + tile.offset, out.to(out_ptr.dtype.element_ty), mask=tile.mask)


def _launch_dots(a: Tensor, b: Tensor | None, *, roots_of_rows: bool = False) -> Tensor:
    """<a_n, b_n> over each span of each row: [N, spans]; or, with ``roots_of_rows``, its root if there is one span."""
    rows, cols = sample_rows(a)
    align, tiling = alignment(cols), row_tiling(rows, cols, a.element_size())
    partials = a.new_empty(rows, tiling.spans, dtype=compute_dtype(a.dtype))
    launch_kernel(
        _dot_kernel, tiling.grid, (a, b, partials), (rows, cols // align, tiling.tiles),
        SQUARE_ROOT=roots_of_rows and tiling.spans == 1, COMPUTE=triton_compute_dtype(a.dtype), COL_ALIGN=align,
        **tiling.constants,
    )  # fmt: skip
    return partials


def _launch_rows(
    partials: Tensor, norms: Tensor | None, sums: Tensor, out: Tensor | None, target: float | None, one_sided: bool
) -> None:
    rows, spans = partials.shape
    block_spans = next_power_of_2(spans)
    block_rows = max(1, min(next_power_of_2(rows), 1024 // block_spans))
    launch_kernel(
        _rows_kernel, (cdiv(rows, block_rows) if target is None else 1,), (partials, norms, sums, out), (rows, spans),
        TARGET=target, ONE_SIDED=one_sided, COMPUTE=triton_compute_dtype(partials.dtype), BLOCK_ROWS=block_rows,
        BLOCK_SPANS=block_spans, num_warps=4,
    )  # fmt: skip


def _launch_norms(gradients: Tensor) -> Tensor:
    if gradients.numel() == 0:
        return _new_norms(gradients).zero_()
    partials = _launch_dots(dense(gradients), None, roots_of_rows=True)
    if partials.shape[1] == 1:
        return partials.squeeze(1)
    norms = _new_norms(gradients)
    _launch_rows(partials, None, norms, None, None, False)
    return norms


def _launch_penalty(gradients: Tensor, target: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    norms = _new_norms(gradients)
    if gradients.numel() == 0:
        return reference.gradient_penalty(gradients, target=target, one_sided=one_sided), norms.zero_()
    penalty = norms.new_empty(())
    _launch_rows(_launch_dots(dense(gradients), None), None, norms, penalty, target, one_sided)
    return penalty, norms


def _launch_backward(
    d: Tensor, gradients: Tensor, norms: Tensor, target: float | None, one_sided: bool,
    v: Tensor | None = None, dots: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """dG; with v and its products with G, the gradient of <dG, v> in G."""
    gradients = dense(gradients)
    out = torch.empty_like(gradients)
    if out.numel():
        launch = matrix_launch(*sample_rows(gradients), gradients.dtype)
        launch_kernel(
            _backward_kernel, launch.tiling.grid, (d, gradients, norms, v, dots, out),
            (*launch.extents, d.stride(0) if d.dim() else 0), TARGET=target, ONE_SIDED=one_sided, **launch.constants,
        )  # fmt: skip
    return out


def _launch_double_backward(
    v: Tensor, d: Tensor, gradients: Tensor, norms: Tensor, target: float | None, one_sided: bool, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of <dG, v> in the incoming gradient d and in G."""
    needs_d, needs_gradients = needs
    gradients = dense(gradients)
    v = dense(v, like=gradients)
    dd = torch.empty_like(d) if needs_d else None
    if gradients.numel() == 0:
        return None if dd is None else dd.zero_(), torch.empty_like(gradients)
    dots = torch.empty_like(norms)
    _launch_rows(_launch_dots(v, gradients), norms, dots, dd, target, one_sided)
    return dd, _launch_backward(d, gradients, norms, target, one_sided, v, dots) if needs_gradients else None


def _new_norms(gradients: Tensor) -> Tensor:
    """Uninitialized memory for one number per sample, in the type of the arithmetic."""
    return gradients.new_empty(len(gradients), dtype=compute_dtype(gradients.dtype))


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _double_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    # The norms are functions of G, so their gradient is part of that of G.
    return _gradient_penalty_double_backward(v, *ctx.saved_tensors, *ctx.settings, list(ctx.needs_input_grad[:2]))


def _save_norms(ctx: Any, inputs: tuple[Any, ...], norms: Tensor) -> None:
    ctx.save_for_backward(*inputs, norms)


def _save_penalty(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gradients, *ctx.settings = inputs
    ctx.save_for_backward(gradients, output[1])


# The gradients of both ops. Those of the norms have no target.
_gradient_penalty_double_backward = DifferentiableOp(
    "gradient_penalty_double_backward(Tensor v, Tensor d, Tensor gradients, Tensor norms, float? target,"
    " bool one_sided, bool[] needs) -> (Tensor, Tensor)",
    launch=_launch_double_backward,
    fake=lambda v, d, gradients, *_: (torch.empty_like(d), empty_dense(gradients)),
    backward=refuse_third_order("gradient_norms or gradient_penalty"),
    is_gradient=True,
)

_gradient_penalty_backward = DifferentiableOp(
    "gradient_penalty_backward(Tensor d, Tensor gradients, Tensor norms, float? target, bool one_sided) -> Tensor",
    launch=_launch_backward,
    fake=lambda d, gradients, *_: empty_dense(gradients),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_gradient_norms = DifferentiableOp(
    "gradient_norms(Tensor gradients) -> Tensor",
    launch=_launch_norms,
    fake=_new_norms,
    setup_context=_save_norms,
    backward=lambda ctx, d: _gradient_penalty_backward(d, *ctx.saved_tensors, None, False),
)

_gradient_penalty = DifferentiableOp(
    "gradient_penalty(Tensor gradients, float target, bool one_sided) -> (Tensor, Tensor)",
    returns_first=True,
    launch=_launch_penalty,
    fake=lambda gradients, *_: (gradients.new_empty((), dtype=compute_dtype(gradients.dtype)), _new_norms(gradients)),
    setup_context=_save_penalty,
    backward=lambda ctx, d: _gradient_penalty_backward(d, *ctx.saved_tensors, *ctx.settings),
)


def gradient_norms(gradients: Tensor) -> Tensor:
    """The L2 norm of each sample of a discriminator's gradients with respect to its input, for a penalty on them.

    Args:
        gradients: [N, ...], two axes or more, any floating-point type; contiguous and channels-last are read as they
            are. At most 2^30 elements per sample.

    Returns:
        [N], float32 (float64 for float64), since sums of squares of 256 x 256 pixels exceed the range of half
        precision. In float32 they overflow, as torch's do, where a norm exceeds 1.8e19. The gradient is 0 where the
        norm is 0. Differentiable to the second order; both orders are fused. Saves the gradients and the norms.

    Raises:
        ValueError: for another shape.
        TypeError: for an integer or complex tensor.
        RuntimeError: for a third order.
    """
    check_samples("gradient_norms", "gradients", gradients)
    if not runs_triton(gradients):
        return reference.gradient_norms(guard_second_order(gradients))
    return _gradient_norms(gradients)


def gradient_penalty(gradients: Tensor, *, target: float = 1.0, one_sided: bool = False) -> Tensor:
    """The mean over the samples of (norm - target)^2, or, one-sided, of max(0, norm - target)^2.

    Target 1 is the penalty of WGAN-GP (Gulrajani et al. 2017, eq. 3), one-sided that of WGAN-LP (Petzka et al. 2018,
    eq. 8); target 0, the mean of the squared norms, that of R1 and R2 (Mescheder et al. 2018, eq. 9 and 10).

    Args:
        gradients: [N, ...], two axes or more, any floating-point type; contiguous and channels-last are read as they
            are. At most 2^30 elements per sample.
        target: finite, at least 0. Each value compiles kernels of its own.
        one_sided: whether only norms above the target are penalized.

    Returns:
        A scalar, float32 (float64 for float64); NaN where there are no samples. At a zero gradient the penalty has
        gradient 0. Differentiable to the second order; both orders are fused. Saves the gradients and their norms.

    Raises:
        ValueError: for a shape or target other than those above.
        TypeError: for an integer or complex tensor.
        RuntimeError: for a third order.
    """
    check_samples("gradient_penalty", "gradients", gradients)
    if not 0 <= target < math.inf:
        raise ValueError(f"gradient_penalty: target is {target}, expected a finite number of at least 0")
    if not runs_triton(gradients):
        return reference.gradient_penalty(guard_second_order(gradients), target=target, one_sided=one_sided)
    # With target 0 one-sided makes no difference, since no norm is below 0, and the two-sided penalty is smooth there.
    return _gradient_penalty(gradients, float(target), bool(one_sided and target > 0))
