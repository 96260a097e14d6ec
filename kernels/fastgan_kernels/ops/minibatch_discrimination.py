"""Minibatch discrimination: how close each sample lies to the others of its batch (Salimans et al. 2016, section 3.2).

For each of B kernels, over the samples i and j and the C components of a kernel,

    o_ib = sum_j k_ijb,    k_ijb = exp(-sum_c |m_ibc - m_jbc|)

The paper sums over all j, the sample itself (k_iib = 1) included. With t_ijbc = sign(m_ibc - m_jbc), which is 0 at a
tie as in torch, the first gradient is

    dm_ibc = -sum_j (g_ib + g_jb) k_ijb t_ijbc

since m_i enters o_i and every o_j. Its product with v is -1/2 sum_ijb (g_ib + g_jb) k_ijb s_ijb, where
s_ijb = sum_c t_ijbc (v_ibc - v_jbc) is symmetric in i and j; so the second order is

    dg_ib = -sum_j k_ijb s_ijb,    dm_ibc = sum_j (g_ib + g_jb) k_ijb s_ijb t_ijbc.

With w = k before, and w = -k s in the second order, all of them are sum_j w and -sum_j (g_i + g_j) w t.
Values of pairs of samples are never in memory: a program holds a tile of samples in registers, reads the others one by
one and computes their distances. The gradients compute them again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_float, check_tensor
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.precision import triton_compute_dtype
from fastgan_kernels.tiling import Tiling, alignment, cdiv, next_power_of_2


@triton.jit
def _place(samples, kernels, BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr):
    """A program's part: rows i * B + b [I, B, 1] of m, kernels [1, B, 1], the masks of both, and the chunk.

    Neighboring programs have the same kernels, and so read the same samples at about the same time.
    """
    i_tiles = tl.cdiv(samples, BLOCK_I)
    b_tiles = tl.cdiv(kernels, BLOCK_B)
    rest = tl.program_id(0) // i_tiles
    i = tl.program_id(0) % i_tiles * BLOCK_I + tl.arange(0, BLOCK_I)
    b = rest % b_tiles * BLOCK_B + tl.arange(0, BLOCK_B)
    i, b = i.to(tl.int64)[:, None, None], b.to(tl.int64)[None, :, None]
    return i * kernels + b, b, (i < samples) & (b < kernels), b < kernels, rest // b_tiles


@triton.jit
def _chunk(start, components, BLOCK_C: tl.constexpr):
    """The components [1, 1, C] of a chunk, and which of them exist."""
    c = (start + tl.arange(0, BLOCK_C))[None, None, :]
    return c, c < components


@triton.jit
def _load(ptr, offset, mask, COMPUTE: tl.constexpr):
    """0 where ``ptr`` is None; the compiler drops what is made of it."""
    if ptr is None:
        return tl.zeros(mask.shape, COMPUTE)
    else:
        return tl.load(ptr + offset, mask=mask, other=0.0).to(COMPUTE)


@triton.jit
def _sign(x, COMPUTE: tl.constexpr):
    """A factor, not a condition, so that NaN passes at a tie too, as in torch."""
    return (x > 0).to(COMPUTE) - (x < 0).to(COMPUTE)


@triton.jit
def _compare(m_i, v_i, m_ptr, v_ptr, there, mask, COMPUTE: tl.constexpr):
    """m_ibc - m_jbc, and t_ijbc (v_jbc - v_ibc), for the sample j at the offsets ``there``."""
    difference = m_i - _load(m_ptr, there, mask, COMPUTE)
    return difference, _sign(difference, COMPUTE) * (_load(v_ptr, there, mask, COMPUTE) - v_i)


@triton.jit
def _sums_of_chunks(
    m_ptr, v_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE: tl.constexpr, BLOCK: tl.constexpr
):
    """The distance and -s [I, B, 1] where a program does not hold all components."""
    distance = tl.zeros(BLOCK, COMPUTE)
    directed = distance
    for start in range(0, components, BLOCK[2]):
        c, exists = _chunk(start, components, BLOCK[2])
        here = row_i * components + c
        m_i = _load(m_ptr, here, exists_i & exists, COMPUTE)
        v_i = _load(v_ptr, here, exists_i & exists, COMPUTE)
        difference, along = _compare(m_i, v_i, m_ptr, v_ptr, row_j * components + c, exists_j & exists, COMPUTE)
        distance += tl.abs(difference)
        directed += along
    return tl.sum(distance, axis=2, keep_dims=True), tl.sum(directed, axis=2, keep_dims=True)


@triton.jit(do_not_specialize=["samples", "kernels", "component_groups"])
def _kernel(
    m_ptr, g_ptr, v_ptr, sums_ptr, dm_ptr, samples, kernels, component_groups,
    RESIDENT: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums o, or dg where there is a v, and dm. Operands and results that are not needed are None."""
    BLOCK: tl.constexpr = (BLOCK_I, BLOCK_B, BLOCK_C)
    components = component_groups * ALIGN
    row_i, b, exists_i, exists_j, chunk = _place(samples, kernels, BLOCK_I, BLOCK_B)
    if dm_ptr is None:
        chunk = 0  # sums need no more programs
    c, exists = _chunk(chunk * BLOCK_C, components, BLOCK_C)
    here = row_i * components + c
    # What does not exist is 0 in every sample, so it adds nothing to a distance.
    m_i = _load(m_ptr, here, exists_i & exists, COMPUTE)
    v_i = _load(v_ptr, here, exists_i & exists, COMPUTE)
    g_i = _load(g_ptr, row_i, exists_i, COMPUTE)
    sums = tl.zeros([BLOCK_I, BLOCK_B, 1], COMPUTE)
    dm = tl.zeros(BLOCK, COMPUTE)
    for j in range(samples):
        row_j = j * kernels.to(tl.int64) + b
        difference, along = _compare(m_i, v_i, m_ptr, v_ptr, row_j * components + c, exists_j & exists, COMPUTE)
        if RESIDENT:
            distance = tl.sum(tl.abs(difference), axis=2, keep_dims=True)
            directed = tl.sum(along, axis=2, keep_dims=True)
        else:
            distance, directed = _sums_of_chunks(
                m_ptr, v_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE, BLOCK
            )
        w = tl.exp(-distance)
        if v_ptr is not None:
            w *= directed
        sums += w
        dm -= (g_i + _load(g_ptr, row_j, exists_j, COMPUTE)) * w * _sign(difference, COMPUTE)
    if sums_ptr is not None:
        # Every chunk of components has computed them; the first writes them.
        tl.store(sums_ptr + row_i, sums.to(sums_ptr.dtype.element_ty), mask=exists_i & (chunk == 0))
    if dm_ptr is not None:
        tl.store(dm_ptr + here, dm.to(dm_ptr.dtype.element_ty), mask=exists_i & exists)


@dataclass(frozen=True)
class PairTiling(Tiling):
    """How [N, B, C] is shared among programs: tiles of samples, kernels and components.

    ``chunks`` is the number of tiles along the components: 1 where a program holds all of them.
    """

    block_i: int
    block_b: int
    block_c: int
    tiles: int
    chunks: int
    num_warps: int = 8


def pair_tiling(samples: int, kernels: int, components: int) -> PairTiling:
    """Tiles of at most 2,048 elements, eight for each of 256 threads, over which every sample passes.

    Args:
        samples, kernels, components: the problem, [N, B, C]; each at least 1.
    """
    block_c = min(next_power_of_2(components), 2048)
    # The part of a passing sample that a tile needs is as much as one warp reads by 16 bytes per thread in float32.
    # Then every warp reads it itself, and warps differ only in their samples i. A wider part would go through shared
    # memory.
    block_b = min(next_power_of_2(kernels), max(1, 128 // block_c))
    # For the same reason the numbers [I, B] of a tile are half as many as its threads.
    block_i = min(next_power_of_2(samples), 16, 128 // block_b, 2048 // (block_b * block_c))
    tiles = cdiv(samples, block_i) * cdiv(kernels, block_b)
    return PairTiling(block_i, block_b, block_c, tiles, chunks=cdiv(components, block_c))


@decided_once
def _launch_of(shape: Sequence[int], dtype: torch.dtype, *, all_components: bool) -> Launch:
    """``all_components``: whether there are programs for each chunk of components, as dm needs."""
    samples, kernels, components = shape
    align, tiling = alignment(components), pair_tiling(samples, kernels, components)
    return Launch(
        _kernel, (tiling.tiles * (tiling.chunks if all_components else 1),), (samples, kernels, components // align),
        RESIDENT=tiling.chunks == 1, COMPUTE=triton_compute_dtype(dtype), ALIGN=align, **tiling.constants,
    )  # fmt: skip


def _launch_forward(m: Tensor) -> Tensor:
    o = m.new_empty(m.shape[:2])
    if m.numel() == 0:
        return o.fill_(m.shape[0])  # without components every distance is 0
    _launch_of(m.shape, m.dtype, all_components=False)(m.contiguous(), None, None, o, None)
    return o


def _launch_backward(g: Tensor, m: Tensor) -> Tensor:
    dm = m.new_empty(m.shape)
    if m.numel():
        _launch_of(m.shape, m.dtype, all_components=True)(m.contiguous(), g.contiguous(), None, None, dm)
    return dm


def _launch_double_backward(v: Tensor, g: Tensor, m: Tensor, needs: list[bool]) -> tuple[Tensor | None, Tensor]:
    """The gradients of <v, dm> in g, where needed, and in m, which is always needed: dm exists only for m."""
    dg, dm = g.new_empty(g.shape) if needs[0] else None, m.new_empty(m.shape)
    if m.numel() == 0:
        return None if dg is None else dg.zero_(), dm
    _launch_of(m.shape, m.dtype, all_components=True)(m.contiguous(), g.contiguous(), v.contiguous(), dg, dm)
    return dg, dm


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _double_backward(ctx: Any, v: Tensor) -> tuple[Tensor | None, ...]:
    needs_g = ctx.needs_input_grad[0]
    return _minibatch_discrimination_double_backward(v, *ctx.saved_tensors, [needs_g, True])


_minibatch_discrimination_double_backward = DifferentiableOp(
    "minibatch_discrimination_double_backward(Tensor v, Tensor g, Tensor m, bool[] needs) -> (Tensor, Tensor)",
    launch=_launch_double_backward,
    fake=lambda v, g, m, needs: (g.new_empty(g.shape), m.new_empty(m.shape)),
    backward=refuse_third_order("minibatch_discrimination"),
    is_gradient=True,
)

_minibatch_discrimination_backward = DifferentiableOp(
    "minibatch_discrimination_backward(Tensor g, Tensor m) -> Tensor",
    launch=_launch_backward,
    fake=lambda g, m: m.new_empty(m.shape),
    setup_context=_save_inputs,
    backward=_double_backward,
    is_gradient=True,
)

_minibatch_discrimination = DifferentiableOp(
    "minibatch_discrimination(Tensor m) -> Tensor",
    launch=_launch_forward,
    fake=lambda m: m.new_empty(m.shape[:2]),
    setup_context=_save_inputs,
    backward=lambda ctx, g: _minibatch_discrimination_backward(g, *ctx.saved_tensors),
)


def minibatch_discrimination(m: Tensor) -> Tensor:
    """For each sample and kernel, the sum over the batch of exp(-L1 distance).

    Args:
        m: [N, B, C], N samples projected to B kernels of C components, any floating-point type; what is not contiguous
            is copied.

    Returns:
        o [N, B], contiguous, in the type of ``m``: o[i, b] = sum_j exp(-sum_c abs(m[i, b, c] - m[j, b, c])), between 1
        (the sum includes j = i) and N (Salimans et al. 2016, section 3.2). Differentiable to the second order, with the
        gradient of a distance at a tie 0, as torch has it. Saves ``m``; memory grows with N, not with its square.

    Raises:
        ValueError: for an ``m`` without three axes.
        TypeError: for an integer or complex tensor.
        RuntimeError: from the kernels, for a third order.
    """
    check_tensor("minibatch_discrimination", "m", m)
    if m.dim() != 3:
        raise ValueError(f"minibatch_discrimination: m has shape {list(m.shape)}, expected [N, B, C]")
    check_float("minibatch_discrimination", "m", m)
    if not runs_triton(m):
        return reference.minibatch_discrimination(guard_second_order(m))
    return _minibatch_discrimination(m)
