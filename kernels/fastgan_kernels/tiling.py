"""How problems are cut into tiles: pure functions of sizes, which tests can check without a GPU.

The thresholds are computed, not yet measured. A chip needs about (bandwidth x latency) bytes in flight: on an H200
4.8 TB/s x 0.7 us / 132 multiprocessors = 25 KB per multiprocessor, which a few blocks of 16 KB tiles provide.

What names mean in all tilings: ``block_...`` are the extents of a tile, ``num_warps`` is the number of warps of a
program. A reduced axis is cut into ``spans``; one program reduces each span, which has ``tiles`` tiles. Arguments are
the extents of a problem, each at least 1; ``element_size``, the bytes of an element; ``channels_last``: channels, not
pixels, are neighbors in memory.
"""

import functools
import math
from dataclasses import dataclass

from fastgan_kernels.launch import decided_once

Pair = tuple[int, int]
"""Numbers of both axes, (y, x)."""


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n``; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """``a / b`` rounded up."""
    return -(-a // b)


def alignment(cols: int) -> int:
    """The largest power of two up to 16 that divides ``cols``, and so the offset of every row."""
    return math.gcd(cols, 16)


def _fair_tile(elements: int, *, least: int, most: int) -> int:
    """The elements of a tile: ``most``, or fewer if a large chip would otherwise have fewer than about 256 tiles."""
    return min(most, max(least, next_power_of_2(elements // 256)))


class Tiling:
    """The common part of the tilings of all ops."""

    @functools.cached_property
    def constants(self) -> dict[str, int]:
        """The extents of a tile (``BLOCK_...``) and ``num_warps``, as keyword arguments of kernels."""
        fields = vars(self).items()
        blocks = {name.upper(): value for name, value in fields if name.startswith("block_")}
        return {**blocks, "num_warps": self.num_warps}


@dataclass(frozen=True)
class MatrixTiling(Tiling):
    """Tiles of a row-major matrix, with one program per tile."""

    block_rows: int
    block_cols: int
    row_programs: int
    col_programs: int
    num_warps: int

    @property
    def grid(self) -> tuple[int]:
        return (self.row_programs * self.col_programs,)


@decided_once
def matrix_tiling(rows: int, cols: int, element_size: int, *, column_sums: bool = False) -> MatrixTiling:
    """Tiles for an elementwise pass over a row-major matrix.

    With ``column_sums`` each program also leaves the sums of its columns. Its tile is then narrow (64 bytes in half
    precision, two sectors) and tall, so that these float32 sums are at most 1% of the bytes of a large problem.
    """
    # 16 elements per thread at eight warps, in float32 four accesses of 16 bytes; with 32 ptxas spills in some kernels.
    tile, per_thread = 16384 // max(element_size, 4), 64
    if not column_sums and not _fills_waves(rows * cols // tile):
        # Half the elements in as many threads make twice as many programs, of which more run at once.
        tile, per_thread = tile // 2, per_thread // 2
    tile = _fair_tile(rows * cols, least=512, most=tile)
    # In a tile of one row, the values of the row are the same for all threads: fewer registers, half the instructions.
    widest = 32 if column_sums else tile if cols % tile == 0 else 1024
    block_cols = min(next_power_of_2(cols), widest, tile)
    block_rows = min(next_power_of_2(rows), tile // block_cols)
    return MatrixTiling(
        block_rows,
        block_cols,
        row_programs=cdiv(rows, block_rows),
        col_programs=cdiv(cols, block_cols),
        num_warps=max(2, block_rows * block_cols * max(element_size, 4) // (32 * per_thread)),
    )


def _fills_waves(programs: int) -> bool:
    """Whether each multiprocessor of a large chip (132) has two programs, and two to eight waves are 70% full in all.

    A multiprocessor runs five, six or eight programs of eight warps, by the registers that an op takes.
    """
    waves = [programs / (132 * at_once) for at_once in (5, 6, 8)]
    return programs >= 264 and all(w <= 1 or w > 8 or w >= 0.7 * math.ceil(w) for w in waves)


@dataclass(frozen=True)
class RowTiling(Tiling):
    """How the rows of a row-major matrix, in ``row_programs`` blocks, are shared among programs that reduce them."""

    block_rows: int
    block_cols: int
    row_programs: int
    spans: int
    tiles: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return (self.row_programs, self.spans)


@decided_once
def row_tiling(rows: int, cols: int, element_size: int) -> RowTiling:
    """Tiles for a pass that reduces every row of a row-major matrix and writes nothing else."""
    # Two accesses of 16 bytes per thread at sixteen warps.
    tile = 16384 // element_size
    block_cols = min(next_power_of_2(cols), tile)
    # Short rows share a block, as long as every multiprocessor of a large chip has one or threads have few elements.
    block_rows = max(1, min(tile, max(512, block_cols * next_power_of_2(cdiv(rows, 256)))) // block_cols)
    row_programs = cdiv(rows, block_rows)
    # Three programs per multiprocessor of a large chip (132) run at once and have 48 KB in flight. Below 4 MB, spans of
    # less than 16K elements save less than the second launch, which adds them up, costs.
    most_spans = max(1, 3 * 132 // row_programs)
    shortest = tile if rows * cols * element_size >= 4 << 20 else 16384
    tiles = cdiv(min(max(shortest, cdiv(cols, most_spans)), cols), block_cols)
    return RowTiling(
        block_rows,
        block_cols,
        row_programs,
        spans=cdiv(cols, tiles * block_cols),
        tiles=tiles,
        num_warps=max(2, block_rows * block_cols * element_size // 1024),
    )


@dataclass(frozen=True)
class SumTiling(Tiling):
    """How [outer, channels, inner], in ``channel_programs`` blocks of channels, is summed to [channels]."""

    block_channels: int
    block_partials: int
    channel_programs: int
    spans: int
    tiles: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return (self.channel_programs, self.spans)


@decided_once
def sum_tiling(channels: int, outer: int, inner: int) -> SumTiling:
    """Tiles for the sums of [outer, channels, inner] over its first and last axis, which may be empty."""
    # 8 elements per thread at sixteen warps. A channel's partials are neighbors in memory, or, if the inner extent is
    # 1, the channels are: 32 of them are a line of 128 bytes.
    in_line = min(next_power_of_2(channels), 32) if inner == 1 else 4
    block_partials = min(next_power_of_2(outer * inner), 4096 // in_line)
    block_channels = min(next_power_of_2(channels), 4096 // block_partials)
    channel_programs = cdiv(channels, block_channels)
    all_tiles = max(1, cdiv(outer * inner, block_partials))
    # Each tile waits for memory (0.7 us), so four tiles cost as much as a second launch. More are cut into spans,
    # for about two programs per multiprocessor of a large chip (132). The second launch then has two tiles at most.
    spans = 1 if all_tiles <= 4 else max(1, min(all_tiles, 256 // channel_programs))
    tiles = cdiv(all_tiles, spans)
    num_warps = max(1, block_channels * block_partials // 256)
    return SumTiling(block_channels, block_partials, channel_programs, cdiv(all_tiles, tiles), tiles, num_warps)


@dataclass(frozen=True)
class NormTiling(Tiling):
    """How the channels of all groups of samples are shared among programs.

    Attributes:
        block_channels, block_samples, block_pixels: the extents of a tile.
        pixel_tiles: tiles per sample, along its pixels.
        all_tiles: tiles per channel of a group.
        spans: number of spans that these are cut into, with one program each.
        tiles: tiles per span.
        resident: whether there is one tile, which stays in registers and is read once.
        channel_programs: number of blocks of ``block_channels`` channels, over all groups.
        fold: elements per channel of a tile that one thread has, in separate accesses of 16 bytes.
        num_warps: warps per program.
    """

    block_channels: int
    block_samples: int
    block_pixels: int
    pixel_tiles: int
    all_tiles: int
    spans: int
    tiles: int
    resident: bool
    channel_programs: int
    fold: int
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return (self.channel_programs, self.spans)


@decided_once
def norm_tiling(
    groups: int, samples: int, channels: int, pixels: int, element_size: int, *, channels_last: bool,
    reduces: bool = True, tensors: int = 1, before: bool = False,
) -> NormTiling:  # fmt: skip
    """Tiles for a pass over [groups, samples, channels, pixels] with statistics of each channel of a group.

    Args:
        groups, samples, channels, pixels: the problem; each at least 1.
        element_size: bytes of an element.
        channels_last: channels, not pixels, are neighbors in memory.
        reduces: whether a tile that has whole channels may stay in registers, so that it is read once.
        tensors: how many tensors of this size the pass reads (1 forward, 2 backward, 3 in the second order).
        before: whether noise or a bias comes before the normalization, for which the kernels need more registers.
    """
    # 16K float32 elements over 512 threads take 32 registers per thread and tensor, which fit
    # (benchmarks/static/compiled.csv). Channels-last the distances between the addresses of a thread are not constant.
    capacity = (8192 if channels_last else 16384) if element_size <= 4 else (2048 if channels_last else 4096)
    block_samples, block_pixels = next_power_of_2(samples), next_power_of_2(pixels)
    all_channels = next_power_of_2(channels)
    # Channels-last, a pixel is read by runs of 128 bytes, or of 64 if a channel then stays resident. Contiguous, small
    # images share a sector of 32 bytes.
    strips = [128, 64] if channels_last else [32 // block_pixels]
    strips = [min(all_channels, max(1, strip // element_size)) for strip in strips]
    for block_channels in strips if reduces else ():
        elements = block_channels * block_samples * block_pixels
        if elements <= capacity:
            if not channels_last:
                # Short channels share a tile, as long as every multiprocessor of a large chip (132) has one.
                fair_share = next_power_of_2(cdiv(groups * channels, 512))
                more = max(1, min(4096 // elements, fair_share // block_channels, all_channels // block_channels))
                if elements == 4096 < capacity and 660 < groups * channels < 1109:
                    # A multiprocessor runs five such tiles at once: single tiles would be little more than one wave.
                    more = min(2, all_channels)
                block_channels, elements = block_channels * more, elements * more
            programs = groups * cdiv(channels, block_channels)
            # 16 elements per thread, 32 of the largest tiles and in half precision.
            of_warp = 1024 if element_size == 2 else 512
            num_warps = min(max(elements // of_warp, 2), 16)
            return NormTiling(block_channels, block_samples, block_pixels, 1, 1, 1, 1, True, programs, 1, num_warps)
    # Four accesses of 16 bytes for each thread. In the second order a thread makes two to each of three tensors, and a
    # program has half the threads, so that more programs fit where registers are few.
    num_warps = 8 if tensors < 3 else 4
    access = num_warps * 32 * 16 // element_size
    tile = access * (4 if tensors < 3 else 2)
    at_once = _NORMS_AT_ONCE[channels_last, before][tensors - 1]
    few = 66 * max(at_once)  # half of what the chip runs at once
    most = 256
    if tensors < 3:
        # A program reads the partials of all spans of its channels: at most 3% of the problem's bytes. Channels-last,
        # where channels share programs, of which there are few, it is at most 13%.
        most = max(1, math.isqrt(samples * pixels * (element_size if not channels_last else 16) // 256))
    if channels_last:
        # A pixel is read by runs of 128 bytes, in half precision of 64 where registers are few. With runs of 128 bytes
        # the noise of a tile has fewer pixels than the program threads, and each thread loads those that it needs: none
        # go through shared memory. Runs are halved if there would be too few programs, and L2 can keep the other half
        # of each 128 bytes.
        block_channels = 128 // (element_size if before and tensors == 1 else max(element_size, 4))
        block_channels = min(all_channels, max(1, block_channels))
        fits_l2 = groups * samples * channels * pixels * element_size <= 32 << 20
        if fits_l2 and block_channels * element_size >= 64 and groups * cdiv(channels, block_channels) * most < few:
            block_channels //= 2
        most = min(most, 4096 // block_channels)
    else:
        # A small problem is cut finer: 32 warps for each multiprocessor, which registers always allow.
        tile = min(tile, max(access, next_power_of_2(groups * samples * channels * pixels * num_warps // (132 * 32))))
        block_channels = 1
    block_pixels = min(block_pixels, tile // block_channels)
    block_samples = min(block_samples, tile // (block_channels * block_pixels))
    if not channels_last:
        block_channels = min(all_channels, tile // (block_samples * block_pixels))
    fold = max(1, block_samples * block_pixels * (block_channels if channels_last else 1) // access)
    pixel_tiles = cdiv(pixels, block_pixels)
    all_tiles = pixel_tiles * cdiv(samples, block_samples)
    programs = groups * cdiv(channels, block_channels)
    tiles, spans = _even_spans(programs, all_tiles, most, at_once)
    return NormTiling(
        block_channels, block_samples, block_pixels, pixel_tiles, all_tiles, spans, tiles,
        resident=False, channel_programs=programs, fold=fold, num_warps=num_warps,
    )  # fmt: skip


_NORMS_AT_ONCE: dict[tuple[bool, bool], tuple[Pair, Pair, Pair]] = {
    (False, False): ((5, 5), (4, 5), (9, 12)),
    (False, True): ((4, 5), (3, 4), (6, 9)),
    (True, False): ((4, 4), (2, 2), (3, 4)),
    (True, True): ((2, 3), (1, 2), (3, 4)),
}
"""``_NORMS_AT_ONCE[channels_last, before][tensors - 1]``: how many programs registers let a multiprocessor of an
H200 run in the first pass over spans and in the second, from benchmarks/static/compiled.csv.
"""


def _even_spans(programs: int, tiles: int, most: int, at_once: Pair) -> tuple[int, int]:
    """Tiles per span, and spans, that keep a large chip (132 multiprocessors) evenly busy.

    Args:
        programs: programs for each span.
        tiles: tiles that are cut into spans.
        most: the most spans.
        at_once: how many programs a multiprocessor runs, in each of two passes.
    """

    def time(spans: int) -> int:
        """Of both passes, in halves of a tile: each wave takes the tiles of a span, and half a tile to start."""
        of_span = cdiv(tiles, spans)
        launched = programs * cdiv(tiles, of_span)
        return sum(cdiv(launched, 132 * n) * (2 * of_span + 1) for n in at_once)

    spans = min(range(1, min(most, tiles) + 1), key=time)
    of_span = cdiv(tiles, spans)
    return of_span, cdiv(tiles, of_span)


@dataclass(frozen=True)
class NoiseTiling(Tiling):
    """How a feature map is shared among programs of one warp; each keeps the noise of its block of pixels.

    Attributes:
        walks: whether a program may loop over several blocks of channels; it loops over ``tiles``.
        splits: programs that share the channels of a block of pixels.
        pixel_programs: number of blocks of pixels, over all samples.
    """

    block_channels: int
    block_pixels: int
    walks: bool
    tiles: int
    splits: int
    pixel_programs: int
    num_warps: int = 1

    @property
    def grid(self) -> tuple[int, int]:
        return (self.pixel_programs, self.splits)


@decided_once
def noise_tiling(
    samples: int, channels: int, pixels: int, element_size: int, *, channels_last: bool, sums: bool = False
) -> NoiseTiling:
    """Tiles for a pass over [samples, channels, pixels] in which all channels share one value per pixel.

    With ``sums`` each program also writes one sum per channel.
    """
    # Four accesses of 16 bytes per thread; or, in rows that start inside a sector, 32 of one element.
    aligned = (channels if channels_last else pixels) * element_size % 32 == 0
    tile = 2048 // element_size if aligned else 1024
    # Where a warp has whole rows of 16 bytes per thread, it adds up each channel by itself. Elsewhere sums pass through
    # shared memory, and so a program has one tile, of more pixels: its sums are then 1.6% of its bytes in float32.
    walks = not channels_last and pixels * element_size >= 512
    if sums and not walks and aligned:
        tile *= 2
    if channels_last:
        # Two sectors of channels; whole rows if rows are not aligned to sectors and no sums are wanted.
        block_channels = min(next_power_of_2(channels), 64 // element_size if aligned or sums else tile)
        block_pixels = min(next_power_of_2(pixels), tile // block_channels)
    else:
        row = 512 // element_size if aligned else tile
        block_pixels = min(next_power_of_2(pixels), max(row, tile // next_power_of_2(channels)), tile)
        block_channels = min(next_power_of_2(channels), tile // block_pixels)
    pixel_programs = samples * cdiv(pixels, block_pixels)
    channel_tiles = cdiv(channels, block_channels)
    # Each program draws or reads the values of its pixels, so it takes as many channels as leave sixteen programs per
    # multiprocessor, which all run at once, with 32 KB in flight. Few channels are not split: the values would be a
    # large part of the traffic.
    wanted = cdiv(16 * 132, pixel_programs) if channels > 16 else 1
    tiles = cdiv(channel_tiles, min(channel_tiles, wanted)) if walks else 1
    splits = cdiv(channel_tiles, tiles)
    return NoiseTiling(block_channels, block_pixels, walks, cdiv(channel_tiles, splits), splits, pixel_programs)


@dataclass(frozen=True)
class GroupTiling(Tiling):
    """Tiles of groups of samples: a tile has some features (rows and columns) of the members of one group.

    A program that cannot hold all members loops over them. A group has ``row_tiles * col_tiles`` tiles.
    """

    block_members: int
    block_rows: int
    block_cols: int
    row_tiles: int
    col_tiles: int
    num_warps: int

    @property
    def tiles(self) -> int:
        return self.row_tiles * self.col_tiles


@decided_once
def group_tiling(
    groups: int, members: int, rows: int, cols: int, element_size: int, *, finest: int = 1024
) -> GroupTiling:
    """Tiles for a pass that reduces over the members of each group, feature by feature.

    Each of the ``members`` samples of a group has ``rows * cols`` features, of which columns are neighbors in memory.
    ``finest`` is the fewest elements of a tile.
    """
    # 16 elements per thread at eight warps (8 in float64) leave registers for two tensors and the values made of them.
    capacity = 4096 if element_size <= 4 else 2048
    tile = _fair_tile(groups * members * rows * cols, least=finest, most=capacity)
    # At least two sectors per member; if a tile cannot hold those of all members, they take turns.
    strip = min(64 // element_size, next_power_of_2(rows) * next_power_of_2(cols))
    block_members = min(next_power_of_2(members), capacity // strip)
    width = max(tile // block_members, strip)
    block_cols = min(next_power_of_2(cols), width)
    block_rows = min(next_power_of_2(rows), width // block_cols)
    elements = block_members * block_rows * block_cols
    return GroupTiling(
        block_members,
        block_rows,
        block_cols,
        row_tiles=cdiv(rows, block_rows),
        col_tiles=cdiv(cols, block_cols),
        num_warps=max(1, elements * 8 // capacity),
    )


@dataclass(frozen=True)
class ChannelTiling(Tiling):
    """How a feature map is shared among programs that each reduce over the channels of some pixels.

    There are ``sample_tiles * pixel_tiles`` of them. A ``resident`` tile has all channels and stays in registers, so
    that it is read once.
    """

    block_samples: int
    block_channels: int
    block_pixels: int
    sample_tiles: int
    pixel_tiles: int
    resident: bool
    num_warps: int

    @property
    def grid(self) -> tuple[int]:
        return (self.sample_tiles * self.pixel_tiles,)


@decided_once
def channel_tiling(
    samples: int, channels: int, pixels: int, element_size: int, *, channels_last: bool, tensors: int = 1
) -> ChannelTiling:
    """Tiles for a pass that reads ``tensors`` tensors, reduces over the channels of every pixel and then writes them.

    Channels-last, all pixels may count as one sample's.
    """
    # 16 elements per thread (8 in float64) at 16 warps, the most that a program can have on AMD.
    capacity = 8192 if element_size <= 4 else 4096
    if channels_last and channels * element_size % 16:
        # Half of that where elements of rows are accessed one by one, each with an address and a predicate: more would
        # make ptxas spill for sm_80.
        capacity //= 2
    all_channels = next_power_of_2(channels)
    # Contiguous, a tile has whole sectors of 32 bytes of every plane; two of them if all channels then stay resident.
    strips = (1,) if channels_last else (64 // element_size, 32 // element_size)
    strips = [min(strip, next_power_of_2(pixels)) for strip in strips]
    strip = next((strip for strip in strips if all_channels * strip <= capacity), 0)
    resident = strip > 0
    # A tile has half of the capacity, so that a multiprocessor holds four programs. It is larger where planes start
    # inside a sector, since longer strips waste less of the sectors at their ends.
    tile = _fair_tile(samples * channels * pixels, least=1024, most=4096 if element_size <= 4 else 2048)
    if not channels_last and pixels * element_size % 32:
        tile = capacity
    # Three tensors take so many registers that a multiprocessor holds three such programs: 512 of them would be 1.3
    # waves.
    if tensors == 3 and tile * element_size >= 8192:
        tile = capacity
    if not resident:
        strip, tile = strips[0], capacity // 2
    block_channels = min(all_channels, tile // strip) if not resident else all_channels
    block_pixels = min(next_power_of_2(pixels), max(tile // block_channels, strip))
    block_samples = 1
    if block_pixels >= pixels:
        block_samples = min(next_power_of_2(samples), max(tile // (block_channels * block_pixels), 1))
    return ChannelTiling(
        block_samples,
        block_channels,
        block_pixels,
        sample_tiles=cdiv(samples, block_samples),
        pixel_tiles=cdiv(pixels, block_pixels),
        resident=resident,
        num_warps=max(1, block_samples * block_channels * block_pixels * 16 // capacity),
    )


@dataclass(frozen=True)
class StripTiling(Tiling):
    """How the output of a resampling is shared among programs: tiles of strips of neighboring rows.

    Attributes:
        rows, cols: rows and columns that a thread computes at once.
        turns: a strip has ``turns * rows`` rows. A thread computes a strip, and loads each of its input rows once.
        block_strips, block_groups, block_channels: the extents of a tile in strips, groups of ``cols`` columns, and
            channels; 1 channel where pixels are neighbors in memory. The strips of several small images share a tile.
        programs: number of tiles.
        num_warps: warps per program.
    """

    rows: int
    cols: int
    turns: int
    block_strips: int
    block_groups: int
    block_channels: int
    programs: int
    num_warps: int

    @property
    def grid(self) -> tuple[int]:
        return (self.programs,)


@decided_once
def strip_tiling(
    images: int, channels: int, height: int, width: int, element_size: int, *, up: Pair, down: Pair,
    channels_last: bool, threads_per_warp: int = 32,
) -> StripTiling:  # fmt: skip
    """Tiles for a resampling of [images, height, width, channels] as it lies in memory.

    A program reads its tile and the pixels around it, which the first cache level keeps while strips pass over them.
    Neighboring programs read the pixels around a tile again, so tiles are wide and high.

    Args:
        images, channels, height, width: the output, each at least 1; contiguous planes are images of one channel.
        element_size: bytes of an element.
        up, down: factors, (y, x); those of up are powers of two up to 4.
        channels_last: channels, not columns, are neighbors in memory.
        threads_per_warp: 64 on AMD.
    """
    # 4 outputs of 16 bits or 32 are a store of at least 8 bytes, and loads of as many. In channels-last a thread has 4
    # channels of 2 columns. More than 2 rows would take registers and put no more loads in flight, except where
    # columns are fewer and loads are narrow.
    elements = min(4, 16 // element_size)
    if channels_last:
        rows, cols, block_channels, resident = 2, 2, min(next_power_of_2(channels), 64 // element_size), 512
        threads_per_group = max(1, block_channels // elements)
    else:
        cols, block_channels, resident = math.gcd(width, elements), 1, 1280
        rows = 2 if cols == 4 else 4
        threads_per_group = 1
    rows, cols = up[0] * max(1, rows // down[0]), max(up[1], cols)
    col_groups, row_groups = cdiv(width, cols), cdiv(height, rows)
    # A small problem has small programs, so that every multiprocessor of a large chip (132 on an H200) has one.
    outputs = images * channels * height * width // (rows * cols * (elements if channels_last else 1))
    threads = min(256, max(threads_per_warp, next_power_of_2(outputs // 256)))
    lanes = threads // threads_per_group
    slots = 132 * resident // threads
    # Rows and columns read around a tile by a kernel of four taps, the usual one. In contiguous layout, a part of one
    # more sector on each side of a row.
    around, side = 3, 3 if channels_last else 64 // element_size

    def tile(turns: int) -> StripTiling:
        strips = images * cdiv(row_groups, turns)
        widths = [1 << i for i in range(next_power_of_2(col_groups).bit_length()) if 1 << i <= lanes]
        block_groups = min(
            widths,
            key=lambda w: cdiv(col_groups, w) * (w * cols + side) * (turns * rows * lanes // w + around) * w,
        )
        block_strips = min(lanes // block_groups, next_power_of_2(strips))
        return StripTiling(
            rows,
            cols,
            turns,
            block_strips,
            block_groups,
            block_channels,
            programs=cdiv(strips, block_strips) * cdiv(col_groups, block_groups) * cdiv(channels, block_channels),
            num_warps=max(1, block_strips * block_groups * threads_per_group // threads_per_warp),
        )

    def cost(tiling: StripTiling) -> tuple[bool, int]:
        """First whether two to eight waves are less than 70% full in all, then the time of all waves, in turns."""
        waves = cdiv(tiling.programs, slots)
        # Two turns read what precedes the first one.
        return 1 < waves <= 8 and tiling.programs < 0.7 * waves * slots, waves * (tiling.turns + 2)

    return min(map(tile, range(1, min(32, row_groups) + 1)), key=cost)


@dataclass(frozen=True)
class BandTiling(Tiling):
    """How the output of a resampling by a long filter is shared among programs, each with a matrix for its columns.

    Attributes:
        rows: output rows per phase and program.
        block_rows: rows of a phase that a program computes at once.
        block_in, block_out: columns of input and output that a matrix holds.
        step: columns of output that a program writes, at most ``block_out``.
        align: the first columns of input and output are multiples of it.
        block_channels: channels per program, 1 in contiguous layout.
    """

    rows: int
    block_rows: int
    block_in: int
    block_out: int
    step: int
    align: int
    block_channels: int
    num_warps: int = 8

    def programs(self, images: int, channels: int, height: int, width: int, up: int) -> int:
        """Programs over an output [images, height, width, channels] of ``up`` phases of rows."""
        strips = images * cdiv(cdiv(height, up), self.rows)
        return strips * cdiv(width, self.step) * cdiv(channels, self.block_channels)


@decided_once
def band_tiling(
    height: int, width: int, element_size: int, taps: int, *, separable: bool, up: Pair, down: Pair,
    channels_last: bool, widest: int = 128,
) -> BandTiling | None:  # fmt: skip
    """Tiles for a resampling by a filter of ``taps`` columns; ``None`` where it is too long for a matrix.

    Args:
        height, width: the size of the output.
        element_size: bytes of an element.
        taps: columns of the filter.
        separable: whether one matrix serves all rows of the filter.
        up, down: factors, (y, x).
        channels_last: channels, not columns, are neighbors in memory.
        widest: length of the longer side of a matrix; 64 on AMD, whose compiler spills with more.
    """
    (up_y, up_x), (_, down_x) = up, down
    # The first columns start at a sector.
    align = 1 if channels_last else 32 // element_size
    # These sizes compile for all targets without spills: 32 x 64 x 128 and 32 x 128 x 64 (178 registers on sm_80; for
    # 32 x 128 x 32 it is 255, and 50 are spilled), and, with one matrix per row of taps, 16 x 64 x 64 (187; for 32 rows
    # it is 255).
    block_in = widest if separable and down_x > up_x else 64
    needed = (down_x * (width - 1) + taps - 1) // up_x + align
    block_in = min(block_in, max(32, next_power_of_2(needed)))
    block_out = widest if separable and up_x > down_x else 64
    # Input starts at a multiple of align, so up to align - 1 columns of the matrix may precede the first window.
    most = ((block_in - align) * up_x - (taps - 1)) // down_x + 1
    step = min(most, block_out, cdiv(width, align) * align) // align * align
    if step <= 0:
        return None
    block_out = max(64 if block_in == 128 else 32, next_power_of_2(step))
    phase_height = cdiv(height, up_y)
    if channels_last:
        # A program computes neighboring rows in turn, so the rows that their windows share come from the first cache.
        return BandTiling(min(16, next_power_of_2(phase_height)), 1, block_in, block_out, step, align, 16)
    rows = min(32 if separable else 16, max(16, next_power_of_2(phase_height)))
    return BandTiling(rows, rows, block_in, block_out, step, align, 1)


@dataclass(frozen=True)
class FilteredTiling:
    """Tiles of filtered_lrelu: of its input, of the upsampled middle, and of its output.

    Attributes:
        in_x, mid_y, mid_x, out_y, out_x: rows (y) and columns (x) of input, middle and output that matrices hold.
        mid_step: columns of the middle that are computed at a time, at most ``mid_x``.
        tile_y, tile_x: rows and columns of the output that a turn writes.
    """

    in_x: int
    mid_y: int
    mid_x: int
    out_y: int
    out_x: int
    mid_step: int
    tile_y: int
    tile_x: int


def filtered_tiling(size: Pair, element_size: int, a: Pair, b: Pair, *, up: Pair, down: Pair) -> FilteredTiling | None:
    """Tiles for a filter ``a`` after zero insertion and a filter ``b`` before decimation; ``None`` where none fit.

    Args:
        size: the size of the output (y, x).
        element_size: bytes of an element.
        a, b: the extents of the two filters, (y, x).
        up, down: the factors, (y, x).
    """
    # With these sizes four warps take up to 168 registers, and a multiprocessor runs three programs. With a middle of
    # 64 columns eight warps take 233, and it runs one program, with no fewer instructions.
    mid_y, mid_x, most_in, most_y, most_x = 32, 32, 64, 16, 32
    wide = 16 // element_size
    # In steps of bytes of signs, and of wide accesses of the input, one matrix serves all parts of the middle.
    unit = math.lcm(4, up[1] * wide)
    mid_step = mid_x // unit * unit
    # Starts are rounded down, so up to wide - 1 columns of the input precede those needed, and 3 of the middle.
    in_x = max(32, next_power_of_2((mid_step + a[1] - 2) // up[1] + wide))
    tile_y = min((mid_y - b[0]) // down[0] + 1, most_y, size[0])
    if not mid_step or in_x > most_in or tile_y < 1:
        return None
    tiles = range(wide, min(most_x, cdiv(size[1], wide) * wide) + 1, wide)
    tile_x = max(tiles, key=lambda tile: (tile / cdiv(down[1] * (tile - 1) + b[1] + 3, mid_step), tile))
    return FilteredTiling(in_x, mid_y, mid_x, most_y, most_x, mid_step, tile_y, tile_x)


@decided_once
def filtered_turns(columns: int, rows: int) -> int:
    """How many of the ``rows`` tiles below each other a program of filtered_lrelu computes.

    As many as leave every multiprocessor of a large chip (132 on an H200), which runs three programs, busy to the end:
    the pixels between two tiles of a program are in the first level of cache when they are read again.

    Args:
        columns: number of columns of tiles, of all planes.
        rows: tiles in a column.
    """
    candidates = (cdiv(rows, strips) for strips in range(1, rows + 1))
    # Waves, times turns and half a turn to start.
    return min(candidates, key=lambda turns: cdiv(columns * cdiv(rows, turns), 132 * 3) * (2 * turns + 1))
