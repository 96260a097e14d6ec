"""The two memory layouts that kernels read as they are, and how anything else becomes one of them.

A dense tensor [N, C, *spatial] is a row-major matrix in either layout: contiguous, it has N * C rows of pixels;
channels-last, N * pixels rows of channels.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Matrix(NamedTuple):
    """A dense tensor [N, C, *spatial] seen as a row-major matrix.

    ``channels_last`` tells whether the channels are its columns; else row r belongs to channel r % C.
    """

    rows: int
    cols: int
    channels: int
    channels_last: bool


def dense(x: Tensor, *, like: Tensor | None = None) -> Tensor:
    """``x`` [N, C, *spatial] itself where it is contiguous or channels-last, else a contiguous copy.

    With ``like``, a dense tensor of the same shape, the result has the layout of ``like``.
    """
    if like is None:
        return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()
    if like.is_contiguous():
        return x.contiguous()
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_dense(x: Tensor) -> Tensor:
    """Uninitialised memory of the shape and type of ``x``, in the layout of ``dense(x)``."""
    return torch.empty_like(dense(x))


def as_matrix(x: Tensor) -> Matrix:
    """The matrix that a dense ``x`` [N, C, *spatial] is in memory.

    An image of a single pixel is channels-last whatever its strides: its one-element rows would waste the loads.
    """
    n, c = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    if pixels == 1 or not x.is_contiguous():
        return Matrix(n * pixels, c, c, channels_last=True)
    return Matrix(n * c, pixels, c, channels_last=False)


@triton.jit
def tile_of_matrix(
    row_tile, col_tile, rows, col_groups, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    """Row and column indices of a tile of a row-major matrix, the offsets of its elements and which of them exist.

    The matrix has ``col_groups * COL_ALIGN`` columns: from the constant factor the compiler knows how every row is
    aligned, and so how wide it may load.
    """
    cols = col_groups * COL_ALIGN
    row = row_tile.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = col_tile * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    offset = row[:, None] * cols + col[None, :]
    mask = (row < rows)[:, None] & (col < cols)[None, :]
    return row, col, offset, mask


@triton.jit
def block_of_planes(block, samples, channels, pixels, CHANNELS_LAST: tl.constexpr, BLOCK_PLANES: tl.constexpr):
    """Indices n * C + c of a block of planes, which of them exist, and the offset of the first pixel of each."""
    block += tl.zeros((), tl.int64)
    if CHANNELS_LAST:
        blocks = tl.cdiv(channels, BLOCK_PLANES)
        sample = block // blocks
        channel = block % blocks * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES)
        return sample * channels + channel, channel < channels, sample * channels * pixels + channel
    else:
        plane = block * BLOCK_PLANES + tl.arange(0, BLOCK_PLANES)
        return plane, plane < samples * channels, plane * pixels


@triton.jit
def tile_of_planes(first, exists, pixel, last, channels, CHANNELS_LAST: tl.constexpr):
    """Offsets [planes, pixels] of some pixels of a block of planes, and which of them exist before ``last``."""
    mask = exists[:, None] & (pixel < last)[None, :]
    if CHANNELS_LAST:
        return first[:, None] + pixel.to(tl.int64)[None, :] * channels, mask
    else:
        return first[:, None] + pixel[None, :], mask
