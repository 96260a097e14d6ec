"""How problems are cut into tiles: pure functions of sizes, so that tests can hold them without a GPU.

The thresholds are arithmetic, not yet measurements. A chip needs about (bandwidth x latency) bytes in flight: on an
H200 4.8 TB/s x 0.7 us / 132 multiprocessors = 25 KB a multiprocessor, which a few blocks of 16 KB tiles provide.
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


@dataclass(frozen=True)
class PlaneTiling:
    """How the planes (the pixels of one sample and channel) of a feature map are shared among programs.

    ``spans == 1``: a program takes ``block_planes`` whole planes at a time, ``resident`` in registers (read once) or in
    steps of ``block_pixels`` (read twice, the second time from L2). ``spans > 1``: planes are cut into spans of
    ``span_pixels`` with a program each, and a pass that reduces goes before the pass that writes.
    """

    block_planes: int
    block_pixels: int
    spans: int
    span_pixels: int
    resident: bool
    plane_blocks: int
    plane_programs: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return (self.plane_programs, self.spans)


def plane_tiling(
    samples: int, channels: int, pixels: int, element_size: int, *, channels_last: bool, tensors: int = 1
) -> PlaneTiling:
    """Tiles for a pass that reduces every plane of [samples, channels, pixels] and then writes it.

    Args:
        samples, channels, pixels: the problem; each at least 1.
        element_size: bytes of an element.
        channels_last: channels, not pixels, are neighbours in memory.
        tensors: how many tensors of this size the pass reads (1 forward, 2 backward).
    """
    # Registers: 16K float32 elements over 512 threads are 32 registers a thread and tensor.
    capacity = 16384 if element_size <= 4 else 4096
    if channels_last:
        # 64 bytes of neighbouring channels: two whole sectors, half a line of L2.
        block_planes = min(next_power_of_2(channels), 64 // element_size)
        plane_blocks = samples * cdiv(channels, block_planes)
        if next_power_of_2(pixels) * block_planes <= capacity:
            return _whole_planes(block_planes, next_power_of_2(pixels), plane_blocks, pixels)
        return _spans(block_planes, max(1, 4096 // block_planes), plane_blocks, pixels, shortest_span=1024)
    planes = samples * channels
    if pixels <= capacity:
        block_pixels = next_power_of_2(pixels)
        # Small planes share a block, as long as every multiprocessor of a large chip has one.
        fair_share = next_power_of_2(cdiv(planes, 256))
        block_planes = max(1, min(4096 // block_pixels, fair_share))
        return _whole_planes(block_planes, block_pixels, cdiv(planes, block_planes), pixels)
    # The planes in flight must stay in L2 (50 MB on an H100) between their two reads, and fill the chip.
    in_flight = (32 << 20) // (pixels * element_size * tensors)
    if in_flight >= 128 <= planes:
        block_pixels = 8192 // tensors * 4 // max(element_size, 4)
        return PlaneTiling(1, block_pixels, 1, pixels, False, planes, min(planes, in_flight), num_warps=16)
    return _spans(1, 4096, planes, pixels, shortest_span=16384)


def _whole_planes(block_planes: int, block_pixels: int, plane_blocks: int, pixels: int) -> PlaneTiling:
    num_warps = min(max(block_planes * block_pixels // 1024, 2), 16)
    return PlaneTiling(block_planes, block_pixels, 1, pixels, True, plane_blocks, plane_blocks, num_warps)


def _spans(block_planes: int, block_pixels: int, plane_blocks: int, pixels: int, *, shortest_span: int) -> PlaneTiling:
    # At most 64 spans, so that the second pass combines its partials in one load.
    span = max(shortest_span, cdiv(cdiv(pixels, 64), block_pixels) * block_pixels)
    return PlaneTiling(
        block_planes, block_pixels, cdiv(pixels, span), span, False, plane_blocks, plane_blocks, num_warps=4
    )
