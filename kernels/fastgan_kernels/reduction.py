"""Sums of the partials that kernels leave behind: a fixed order, so that results do not change from run to run."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.tiling import cdiv, next_power_of_2


@triton.jit(do_not_specialize=["outer", "channels", "inner"])
def _sum_partials_kernel(
    partials_ptr,
    sums_ptr,
    outer,
    channels,
    inner,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_PARTIALS: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros([BLOCK_CHANNELS], dtype=partials_ptr.dtype.element_ty)
    for start in range(0, outer * inner, BLOCK_PARTIALS):
        k = start + tl.arange(0, BLOCK_PARTIALS)
        row = (k // inner).to(tl.int64) * channels
        offset = (row[None, :] + channel[:, None]) * inner + (k % inner)[None, :]
        mask = (channel < channels)[:, None] & (k < outer * inner)[None, :]
        total += tl.sum(tl.load(partials_ptr + offset, mask=mask, other=0.0), axis=1)
    tl.store(sums_ptr + channel, total, mask=channel < channels)


def sum_partials(partials: Tensor) -> Tensor:
    """Sums contiguous ``partials`` [A, C, B] over A and B: [C], in their type."""
    outer, channels, inner = partials.shape
    sums = torch.empty(channels, dtype=partials.dtype, device=partials.device)
    if sums.numel() == 0:
        return sums
    # Neighbouring threads read neighbouring partials: along B where there are several, else along C.
    block_partials = min(next_power_of_2(outer * inner), 256)
    block_channels = max(1, min(next_power_of_2(channels), 1024 // block_partials))
    _sum_partials_kernel[(cdiv(channels, block_channels),)](
        partials,
        sums,
        outer,
        channels,
        inner,
        BLOCK_CHANNELS=block_channels,
        BLOCK_PARTIALS=block_partials,
        num_warps=4,
    )
    return sums
