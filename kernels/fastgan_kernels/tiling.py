"""How problems are cut into tiles: pure functions of sizes, so that tests can hold them without a GPU.

The thresholds are arithmetic, not yet measurements: a chip needs about (bandwidth x latency) bytes in flight, 4.8 TB/s x
0.7 us / 132 multiprocessors = 25 KB a multiprocessor on an H200, which a few blocks of 16 KB tiles provide.
"""

import math
from dataclasses import dataclass


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def alignment(cols: int) -> int:
    """The largest power of two up to 16 that divides ``cols``: what a kernel may assume of the start of every row."""
    return math.gcd(cols, 16)


@dataclass(frozen=True)
class MatrixTiling:
    """Tiles of a row-major matrix; a program takes ``tiles_per_program`` of them, one under the other."""

    block_rows: int
    block_cols: int
    tiles_per_program: int
    row_programs: int
    col_programs: int
    num_warps: int

    @property
    def grid(self) -> tuple[int]:
        return (self.row_programs * self.col_programs,)


def matrix_tiling(rows: int, cols: int, element_size: int, *, column_sums: bool = False) -> MatrixTiling:
    """Tiles for an elementwise pass over a row-major matrix.

    Args:
        rows, cols: the matrix; both at least 1.
        element_size: bytes of an element.
        column_sums: whether each program also leaves partial sums of its columns. It then takes so many rows that the
            partials, one float32 a column, stay near 1% of the bytes.
    """
    # 16 bytes a thread and access, eight accesses in flight: 16 KB a tile at four warps.
    tile = 16384 // element_size
    # A small problem is cut finer, so that every multiprocessor of a large chip (132 on an H200) has a tile.
    tile = min(tile, max(512, next_power_of_2(rows * cols // 256)))
    block_cols = min(next_power_of_2(cols), 1024)
    block_rows = min(next_power_of_2(rows), max(1, tile // block_cols))
    tiles_per_program = 1
    if column_sums:
        enough_rows = 256 // element_size
        # ... unless that would leave multiprocessors idle.
        spare = max(1, rows // block_rows * cdiv(cols, block_cols) // 264)
        tiles_per_program = max(1, min(enough_rows // block_rows, next_power_of_2(spare + 1) // 2))
    return MatrixTiling(
        block_rows,
        block_cols,
        tiles_per_program,
        row_programs=cdiv(rows, block_rows * tiles_per_program),
        col_programs=cdiv(cols, block_cols),
        num_warps=4 if block_rows * block_cols >= 1024 else 2,
    )
