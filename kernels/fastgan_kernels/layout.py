"""The two memory layouts that kernels read without a copy, and the conversion of other layouts.

A dense tensor [N, C, *spatial] is a row-major matrix in both layouts. Contiguous, the matrix has N * C rows of pixels;
channels-last, it has N * pixels rows of channels.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.precision import triton_compute_dtype
from fastgan_kernels.tiling import MatrixTiling, alignment, matrix_tiling


class Matrix(NamedTuple):
    """A dense tensor [N, C, *spatial] seen as a row-major matrix.

    With ``channels_last`` columns are channels; otherwise row r belongs to channel r % C.
    """

    rows: int
    cols: int
    channels: int
    channels_last: bool


def contiguous(x: Tensor | None) -> Tensor | None:
    """``x`` itself if it is ``None`` or contiguous, else a contiguous copy."""
    return None if x is None else x.contiguous()


def dense(x: Tensor | None, *, like: Tensor | None = None) -> Tensor | None:
    """``x`` [N, C, *spatial] itself if it is ``None``, contiguous or channels-last, else a contiguous copy.

    With ``like``, a dense tensor of the same shape, the result has the layout of ``like``.
    """
    if x is None:
        return None
    if like is None:
        return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()
    if like.is_contiguous():
        return x.contiguous()
    return x if x.stride() == like.stride() else x.movedim(1, -1).contiguous().movedim(-1, 1)


def empty_dense(x: Tensor, *, channels: int | None = None) -> Tensor:
    """An uninitialized tensor with the shape and type of ``x``, in the layout of ``dense(x)``.

    With ``channels`` it has that many channels instead.
    """
    x = dense(x)
    if channels is None:
        return torch.empty_like(x)
    n, _, *spatial = x.shape
    if x.is_contiguous():
        return x.new_empty(n, channels, *spatial)
    return x.new_empty(n, *spatial, channels).movedim(-1, 1)


_MAX_PLANES = 2**30


def matrix_of(shape: Sequence[int], is_contiguous: bool) -> Matrix:
    """A dense tensor [N, C, *spatial], contiguous or else channels-last, as the matrix that it is in memory.

    Images of a single pixel count as channels-last whatever their strides: rows of one element would waste loads.

    Raises:
        ValueError: for more than 2^30 contiguous planes, whose indices kernels keep in 32 bits.
    """
    n, c = shape[:2]
    pixels = math.prod(shape[2:])
    if pixels == 1 or not is_contiguous:
        return Matrix(n * pixels, c, c, channels_last=True)
    if n * c > _MAX_PLANES:
        raise ValueError(f"x of shape {list(shape)} has {n * c} planes, expected at most {_MAX_PLANES}")
    return Matrix(n * c, pixels, c, channels_last=False)


_MAX_SAMPLE = 2**30


def sample_rows(x: Tensor) -> tuple[int, int]:
    """The numbers of rows and columns of a dense ``x`` [N, ...] as a matrix with one row per sample, in either layout.

    Raises:
        ValueError: for samples of more than 2^30 elements, whose indices kernels keep in 32 bits.
    """
    cols = math.prod(x.shape[1:])
    if cols > _MAX_SAMPLE:
        raise ValueError(f"x of shape {list(x.shape)} has {cols} elements per sample, expected at most {_MAX_SAMPLE}")
    return x.shape[0], cols


class MatrixLaunch(NamedTuple):
    """The tiles of a pass over a row-major matrix, and the arguments and constants that :func:`program_tile` takes."""

    tiling: MatrixTiling
    extents: tuple[int, int]
    constants: dict[str, Any]


@functools.lru_cache(maxsize=1024)
def matrix_launch(rows: int, cols: int, dtype: torch.dtype, *, column_sums: bool = False) -> MatrixLaunch:
    """A launch with one program per tile of a matrix of ``dtype``; ``column_sums`` is that of :func:`matrix_tiling`."""
    tiling, align = matrix_tiling(rows, cols, dtype.itemsize, column_sums=column_sums), alignment(cols)
    constants = {"COMPUTE": triton_compute_dtype(dtype), "COL_ALIGN": align, **tiling.constants}
    return MatrixLaunch(tiling, (rows, cols // align), constants)


class Tile(NamedTuple):
    """In kernels, a tile of a row-major matrix: row and column indices, offsets of elements, mask of valid elements."""

    row: Any
    col: Any
    offset: Any
    mask: Any


@triton.jit
def tile_of_matrix(
    row_tile, col_tile, rows, col_groups, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr
):
    """A tile of a matrix of ``col_groups * COL_ALIGN`` columns.

    COL_ALIGN is a constant, so the compiler knows the alignment of every row, and how wide it may load.
    """
    cols = col_groups * COL_ALIGN
    row = row_tile.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = col_tile * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    return Tile(row, col, row[:, None] * cols + col[None, :], (row < rows)[:, None] & (col < cols)[None, :])


@triton.jit
def program_tile(rows, col_groups, COL_ALIGN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr):
    """The tile of this program, its indices among row tiles and among column tiles, and the number of column tiles."""
    col_tiles = tl.cdiv(col_groups * COL_ALIGN, BLOCK_COLS)
    row_tile, col_tile = tl.program_id(0) // col_tiles, tl.program_id(0) % col_tiles
    tile = tile_of_matrix(row_tile, col_tile, rows, col_groups, COL_ALIGN, BLOCK_ROWS, BLOCK_COLS)
    return tile, row_tile, col_tile, col_tiles


@triton.jit
def extents(minor_groups, major, ALIGN: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """The numbers of channels and pixels. ``minor_groups`` * ALIGN is the length of the axis contiguous in memory."""
    if CHANNELS_LAST:
        return minor_groups * ALIGN, major
    else:
        return major, minor_groups * ALIGN


@triton.jit
def tiles_of_span(span, tiles, pixels, BLOCK_PIXELS: tl.constexpr):
    """The first tile of a span of ``tiles`` tiles, and the tile after the last one."""
    return span * tiles, tl.minimum((span + 1) * tiles, tl.cdiv(pixels, BLOCK_PIXELS))
