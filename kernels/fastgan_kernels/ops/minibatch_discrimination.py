"""Minibatch discrimination: how close each sample lies to the others of its batch (Salimans et al. 2016, section 3.2).

For each of B kernels, over the samples i and j and the C components of a kernel,

    o_ib = sum_j k_ijb,    k_ijb = exp(-sum_c |m_ibc - m_jbc|)

The paper sums over all j, the sample itself (k_iib = 1) included. With t_ijbc = sign(m_ibc - m_jbc), which is 0 at a
tie as in torch, the first gradient is

    dm_ibc = -sum_j (g_ib + g_jb) k_ijb t_ijbc

since m_i enters o_i and every o_j. Its product with v is -1/2 sum_ijb (g_ib + g_jb) k_ijb s_ijb, where
s_ijb = sum_c t_ijbc (v_ibc - v_jbc) is symmetric in i and j; so the second order is

    dg_ib = -sum_j k_ijb s_ijb,    dm_ibc = sum_j (g_ib + g_jb) k_ijb s_ijb t_ijbc.

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
from fastgan_kernels.checks import check_float
from fastgan_kernels.launch import decided_once, launch_kernel
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
def _distance(
    m_ptr, row_i, row_j, exists_i, exists_j, components,
    COMPUTE: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """sum_c |m_ibc - m_jbc| [I, B, 1] where a program does not hold all components."""
    terms = tl.zeros([BLOCK_I, BLOCK_B, BLOCK_C], COMPUTE)
    for start in range(0, components, BLOCK_C):
        c, exists = _chunk(start, components, BLOCK_C)
        m_i = tl.load(m_ptr + (row_i * components + c), mask=exists_i & exists, other=0.0).to(COMPUTE)
        m_j = tl.load(m_ptr + (row_j * components + c), mask=exists_j & exists, other=0.0).to(COMPUTE)
        terms += tl.abs(m_i - m_j)
    return tl.sum(terms, axis=2, keep_dims=True)


@triton.jit
def _directed(
    m_ptr, v_ptr, row_i, row_j, exists_i, exists_j, components,
    COMPUTE: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """sum_c t_ijbc (v_ibc - v_jbc) [I, B, 1] where a program does not hold all components."""
    terms = tl.zeros([BLOCK_I, BLOCK_B, BLOCK_C], COMPUTE)
    for start in range(0, components, BLOCK_C):
        c, exists = _chunk(start, components, BLOCK_C)
        m_i = tl.load(m_ptr + (row_i * components + c), mask=exists_i & exists, other=0.0).to(COMPUTE)
        v_i = tl.load(v_ptr + (row_i * components + c), mask=exists_i & exists, other=0.0).to(COMPUTE)
        difference = m_i - tl.load(m_ptr + (row_j * components + c), mask=exists_j & exists, other=0.0).to(COMPUTE)
        v_difference = v_i - tl.load(v_ptr + (row_j * components + c), mask=exists_j & exists, other=0.0).to(COMPUTE)
        terms += ((difference > 0).to(COMPUTE) - (difference < 0).to(COMPUTE)) * v_difference
    return tl.sum(terms, axis=2, keep_dims=True)


@triton.jit(do_not_specialize=["samples", "kernels", "component_groups"])
def _forward_kernel(
    m_ptr, o_ptr, samples, kernels, component_groups,
    RESIDENT: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    components = component_groups * ALIGN
    row_i, b, exists_i, exists_j, _ = _place(samples, kernels, BLOCK_I, BLOCK_B)
    c, exists = _chunk(0, components, BLOCK_C)
    # What does not exist is 0 in every sample, so it adds nothing to a distance.
    m_i = tl.load(m_ptr + (row_i * components + c), mask=exists_i & exists, other=0.0).to(COMPUTE)
    o = tl.zeros([BLOCK_I, BLOCK_B, 1], COMPUTE)
    for j in range(samples):
        row_j = j * kernels.to(tl.int64) + b
        if RESIDENT:
            m_j = tl.load(m_ptr + (row_j * components + c), mask=exists_j & exists, other=0.0).to(COMPUTE)
            distance = tl.sum(tl.abs(m_i - m_j), axis=2, keep_dims=True)
        else:
            distance = _distance(
                m_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE, BLOCK_I, BLOCK_B, BLOCK_C
            )
        o += tl.exp(-distance)
    tl.store(o_ptr + row_i, o.to(o_ptr.dtype.element_ty), mask=exists_i)


@triton.jit(do_not_specialize=["samples", "kernels", "component_groups"])
def _backward_kernel(
    g_ptr, m_ptr, dm_ptr, samples, kernels, component_groups,
    RESIDENT: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    components = component_groups * ALIGN
    row_i, b, exists_i, exists_j, chunk = _place(samples, kernels, BLOCK_I, BLOCK_B)
    c, exists = _chunk(chunk * BLOCK_C, components, BLOCK_C)
    here = row_i * components + c
    m_i = tl.load(m_ptr + here, mask=exists_i & exists, other=0.0).to(COMPUTE)
    g_i = tl.load(g_ptr + row_i, mask=exists_i, other=0.0).to(COMPUTE)
    dm = tl.zeros([BLOCK_I, BLOCK_B, BLOCK_C], COMPUTE)
    for j in range(samples):
        row_j = j * kernels.to(tl.int64) + b
        m_j = tl.load(m_ptr + (row_j * components + c), mask=exists_j & exists, other=0.0).to(COMPUTE)
        g_j = tl.load(g_ptr + row_j, mask=exists_j, other=0.0).to(COMPUTE)
        difference = m_i - m_j
        if RESIDENT:
            distance = tl.sum(tl.abs(difference), axis=2, keep_dims=True)
        else:
            distance = _distance(
                m_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE, BLOCK_I, BLOCK_B, BLOCK_C
            )
        # A product with the sign, not a selection, so that NaN passes at a tie too, as in torch.
        sign = (difference > 0).to(COMPUTE) - (difference < 0).to(COMPUTE)
        dm -= (g_i + g_j) * tl.exp(-distance) * sign
    tl.store(dm_ptr + here, dm.to(dm_ptr.dtype.element_ty), mask=exists_i & exists)


@triton.jit(do_not_specialize=["samples", "kernels", "component_groups"])
def _double_backward_kernel(
    v_ptr, g_ptr, m_ptr, dg_ptr, dm_ptr, samples, kernels, component_groups,
    RESIDENT: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of <v, dm> in g, unless it is None, and m."""
    components = component_groups * ALIGN
    row_i, b, exists_i, exists_j, chunk = _place(samples, kernels, BLOCK_I, BLOCK_B)
    c, exists = _chunk(chunk * BLOCK_C, components, BLOCK_C)
    here = row_i * components + c
    m_i = tl.load(m_ptr + here, mask=exists_i & exists, other=0.0).to(COMPUTE)
    v_i = tl.load(v_ptr + here, mask=exists_i & exists, other=0.0).to(COMPUTE)
    g_i = tl.load(g_ptr + row_i, mask=exists_i, other=0.0).to(COMPUTE)
    dg = tl.zeros([BLOCK_I, BLOCK_B, 1], COMPUTE)
    dm = tl.zeros([BLOCK_I, BLOCK_B, BLOCK_C], COMPUTE)
    for j in range(samples):
        row_j = j * kernels.to(tl.int64) + b
        there = row_j * components + c
        difference = m_i - tl.load(m_ptr + there, mask=exists_j & exists, other=0.0).to(COMPUTE)
        v_difference = v_i - tl.load(v_ptr + there, mask=exists_j & exists, other=0.0).to(COMPUTE)
        sign = (difference > 0).to(COMPUTE) - (difference < 0).to(COMPUTE)
        if RESIDENT:
            distance = tl.sum(tl.abs(difference), axis=2, keep_dims=True)
            directed = tl.sum(sign * v_difference, axis=2, keep_dims=True)
        else:
            distance = _distance(
                m_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE, BLOCK_I, BLOCK_B, BLOCK_C
            )
            directed = _directed(
                m_ptr, v_ptr, row_i, row_j, exists_i, exists_j, components, COMPUTE, BLOCK_I, BLOCK_B, BLOCK_C
            )
        ks = tl.exp(-distance) * directed
        g_j = tl.load(g_ptr + row_j, mask=exists_j, other=0.0).to(COMPUTE)
        dg -= ks
        dm += (g_i + g_j) * ks * sign
    if dg_ptr is not None:
        # Every chunk of components has computed it; the first writes it.
        tl.store(dg_ptr + row_i, dg.to(dg_ptr.dtype.element_ty), mask=exists_i & (chunk == 0))
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
class _Launch:
    """The grid and the arguments that every kernel of this file takes."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype) -> None:
        samples, kernels, components = shape
        align = alignment(components)
        self.tiling = pair_tiling(samples, kernels, components)
        self.extents = (samples, kernels, components // align)
        self.constants = {
            "RESIDENT": self.tiling.chunks == 1,
            "COMPUTE": triton_compute_dtype(dtype),
            "ALIGN": align,
            **self.tiling.constants,
        }

    def grid(self, *, all_components: bool) -> tuple[int]:
        return (self.tiling.tiles * (self.tiling.chunks if all_components else 1),)


def _launch_forward(m: Tensor) -> Tensor:
    o = m.new_empty(m.shape[:2])
    if m.numel() == 0:
        return o.fill_(m.shape[0])  # without components every distance is 0
    launch = _Launch(m.shape, m.dtype)
    grid = launch.grid(all_components=False)
    launch_kernel(_forward_kernel, grid, (m.contiguous(), o), launch.extents, **launch.constants)
    return o


def _launch_backward(g: Tensor, m: Tensor) -> Tensor:
    dm = m.new_empty(m.shape)
    if m.numel() == 0:
        return dm
    launch = _Launch(m.shape, m.dtype)
    grid, tensors = launch.grid(all_components=True), (g.contiguous(), m.contiguous(), dm)
    launch_kernel(_backward_kernel, grid, tensors, launch.extents, **launch.constants)
    return dm


def _launch_double_backward(v: Tensor, g: Tensor, m: Tensor, needs: list[bool]) -> tuple[Tensor | None, Tensor]:
    """The gradients of <v, dm> in g, where needed, and in m, which is always needed: dm exists only for m."""
    dg, dm = g.new_empty(g.shape) if needs[0] else None, m.new_empty(m.shape)
    if m.numel() == 0:
        return None if dg is None else dg.zero_(), dm
    launch = _Launch(m.shape, m.dtype)
    grid, tensors = launch.grid(all_components=True), (v.contiguous(), g.contiguous(), m.contiguous(), dg, dm)
    launch_kernel(_double_backward_kernel, grid, tensors, launch.extents, **launch.constants)
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
    if m.dim() != 3:
        raise ValueError(f"minibatch_discrimination: m has shape {list(m.shape)}, expected [N, B, C]")
    check_float("minibatch_discrimination", "m", m)
    if not runs_triton(m):
        return reference.minibatch_discrimination(guard_second_order(m))
    return _minibatch_discrimination(m)
