"""Sums of the partial sums that kernels write, in a fixed order, so that results do not change from run to run."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.tiling import sum_tiling


@triton.jit
def add(total, term, IS_ONLY: tl.constexpr):
    """``total + term``; the term itself where it is the only one, since no compiler may drop the addition to 0."""
    return term if IS_ONLY else total + term


# An inner extent of 1 becomes a constant, so the compiler knows that neighboring channels are neighbors in memory.
@triton.jit(do_not_specialize=["count", "channels", "tiles"], do_not_specialize_on_alignment=["inner"])
def _sum_partials_kernel(
    partials_ptr,
    sums_ptr,
    count,
    channels,
    inner,
    tiles,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr,
):
    """One sum per channel and span of ``tiles`` tiles: [spans, channels]."""
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    first = tl.program_id(1) * tiles * BLOCK_PARTIALS
    # Every lane keeps a sum of its own; threads combine them only at the end.
    of_lane = tl.zeros([BLOCK_CHANNELS, BLOCK_PARTIALS], dtype=partials_ptr.dtype.element_ty)
    for start in range(first, tl.minimum(first + tiles * BLOCK_PARTIALS, count), BLOCK_PARTIALS):
        k = start + tl.arange(0, BLOCK_PARTIALS)
        row = (k // inner).to(tl.int64) * channels
        offset = (row[None, :] + channel[:, None]) * inner + (k % inner)[None, :]
        mask = (channel < channels)[:, None] & (k < count)[None, :]
        of_lane += tl.load(partials_ptr + offset, mask=mask, other=0.0)
    sums_ptr += tl.program_id(1).to(tl.int64) * channels
    tl.store(sums_ptr + channel, tl.sum(of_lane, axis=1), mask=channel < channels)


def sum_partials(partials: Tensor) -> Tensor:
    """Sums contiguous ``partials`` [A, C, B] over A and B; returns [C] in their type."""
    channels = partials.shape[1]
    if channels == 0:
        return partials.new_empty(0)
    spans, launch = _launch_of(partials.shape)
    sums = partials.new_empty(channels if spans == 1 else (spans, channels, 1))
    launch(partials, sums)
    return sums if spans == 1 else sum_partials(sums)


@decided_once
def _launch_of(shape: torch.Size) -> tuple[int, Launch]:
    """The number of sums per channel, and the launch that computes them."""
    outer, channels, inner = shape
    tiling = sum_tiling(channels, outer, inner)
    numbers = outer * inner, channels, inner, tiling.tiles
    return tiling.spans, Launch(_sum_partials_kernel, tiling.grid, numbers, **tiling.constants)
