"""Tiles are pure functions of sizes: every element is covered, no limit passed, and the regimes are as stated."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.ops import OPS
from fastgan_kernels.tiling import (
    alignment,
    cdiv,
    channel_tiling,
    group_tiling,
    matrix_tiling,
    next_power_of_2,
    noise_tiling,
    norm_tiling,
    row_tiling,
    sum_tiling,
)

extents = st.one_of(st.integers(1, 300), st.integers(1, 1 << 20))
element_sizes = st.sampled_from([2, 4, 8])


@given(extents, extents, element_sizes, st.booleans())
def test_matrix_tiles_cover_the_matrix(rows: int, cols: int, element_size: int, column_sums: bool):
    t = matrix_tiling(rows, cols, element_size, column_sums=column_sums)
    assert t.row_programs * t.block_rows >= rows > (t.row_programs - 1) * t.block_rows
    assert t.col_programs * t.block_cols >= cols > (t.col_programs - 1) * t.block_cols
    assert t.block_rows * t.block_cols * element_size <= 16384
    assert all(n == next_power_of_2(n) for n in (t.block_rows, t.block_cols, t.num_warps))


@pytest.mark.parametrize(
    ("rows", "cols"), [(128 * 512, 64), (64 * 64, 196), (128 * 128, 1024), (64, 1 << 20), (4 * 52 * 52, 512)]
)
def test_elementwise_passes_of_real_models_fill_a_large_chip(rows: int, cols: int):
    """In float32. With 16 elements a thread takes 32 to 40 registers in bias_act, with 8 of them 32 or fewer."""
    t = matrix_tiling(rows, cols, 4)
    of_thread = t.block_rows * t.block_cols // (32 * t.num_warps)
    (programs,) = t.grid
    for warps in (48, 64) if of_thread > 8 else (64,):
        waves = programs / (132 * (warps // t.num_warps))
        assert waves / math.ceil(waves) >= 0.7 or waves <= 1
    # Two tensors are read, if there are enough threads both at once.
    bytes_at_once = min(programs, 132 * 6) * t.block_rows * t.block_cols * 4 * (2 if of_thread <= 8 else 1)
    assert bytes_at_once / 132 >= 25e3


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("cols", [64, 128, 512, 1024])
def test_partial_sums_of_columns_stay_near_a_hundredth_of_the_bytes(cols: int, element_size: int):
    rows = (64 << 20) // cols
    t = matrix_tiling(rows, cols, element_size, column_sums=True)
    partials = t.row_programs * cols * 4
    assert partials <= 0.011 * 3 * rows * cols * element_size


@given(extents, extents, element_sizes)
def test_row_tiles_cover_the_rows(rows: int, cols: int, element_size: int):
    t = row_tiling(rows, cols, element_size)
    assert t.row_programs * t.block_rows >= rows > (t.row_programs - 1) * t.block_rows
    span = t.tiles * t.block_cols
    assert t.spans * span >= cols > (t.spans - 1) * span
    assert t.block_rows * t.block_cols * element_size <= 16384
    assert t.spans == 1 or (span >= 16384 or rows * cols * element_size >= 4 << 20)
    # Spans that all run at once.
    assert t.spans == 1 or t.row_programs * t.spans <= 3 * 132
    assert t.num_warps <= 16
    assert all(n == next_power_of_2(n) for n in (t.block_rows, t.block_cols, t.num_warps))


@given(
    st.integers(1, 64), st.integers(1, 300), st.integers(1, 700), extents, element_sizes, st.booleans(), st.booleans(),
    st.sampled_from([1, 2, 3]),
)  # fmt: skip
@example(46, 1, 177, 513, 8, True, True, 1)
def test_norm_tiles_cover_the_channels(
    groups: int, samples: int, channels: int, pixels: int, element_size: int, channels_last: bool, reduces: bool,
    tensors: int,
):  # fmt: skip
    t = norm_tiling(
        groups, samples, channels, pixels, element_size, channels_last=channels_last, reduces=reduces, tensors=tensors
    )
    elements = t.block_channels * t.block_samples * t.block_pixels
    assert elements <= (16384 if t.resident else 8192)
    assert t.channel_programs == groups * cdiv(channels, t.block_channels)
    assert t.pixel_tiles * t.block_pixels >= pixels > (t.pixel_tiles - 1) * t.block_pixels
    assert t.all_tiles // t.pixel_tiles * t.block_samples >= samples
    assert t.spans * t.tiles >= t.all_tiles > (t.spans - 1) * t.tiles
    assert t.block_samples * t.block_pixels % t.fold == 0
    assert not t.resident or (reduces and t.all_tiles == t.fold == 1)
    # 1024 threads a block on AMD, whose waves are 64 wide.
    assert t.num_warps * 64 <= 1024
    assert all(
        n == next_power_of_2(n) for n in (t.block_channels, t.block_samples, t.block_pixels, t.fold, t.num_warps)
    )


# As [groups, samples, channels, *spatial].
PLANES = [(1, *p.shape) for p in OPS["norm_act"].problems if math.prod(p.shape) >= 1 << 21]
PLANES += [(p.shape[0], 1, *p.shape[1:]) for p in OPS["adain"].problems if math.prod(p.shape) >= 1 << 21]


@pytest.mark.parametrize("shape", PLANES, ids=str)
@pytest.mark.parametrize(("element_size", "channels_last"), [(4, False), (2, False), (4, True), (2, True)])
@pytest.mark.parametrize("tensors", [1, 2, 3])
def test_norm_tiles_of_real_models_fill_a_large_chip(
    shape: tuple[int, ...], element_size: int, channels_last: bool, tensors: int
):
    """25 KB in flight on each of 132 multiprocessors, as far as that depends on the grid; no 128-program grids."""
    groups, samples, channels, *image = shape
    t = norm_tiling(
        groups, samples, channels, math.prod(image), element_size,
        channels_last=channels_last, reduces=tensors < 3, tensors=tensors,
    )  # fmt: skip
    tile_bytes = t.block_channels * t.block_samples * t.block_pixels * element_size
    programs = t.channel_programs * t.spans
    assert programs * tile_bytes * tensors / 132 >= 25e3
    # Channels-last a pixel is read by 64 bytes at least, where it has so many; by a sector where L2 has its neighbors.
    run = 32 if math.prod(shape) * element_size <= 32 << 20 else 64
    assert not channels_last or t.block_channels * element_size >= min(run, channels * element_size)


@given(st.integers(1, 64), st.integers(1, 700), extents, element_sizes, st.booleans(), st.booleans())
def test_noise_tiles_cover_the_map(
    samples: int, channels: int, pixels: int, element_size: int, channels_last: bool, sums: bool
):
    t = noise_tiling(samples, channels, pixels, element_size, channels_last=channels_last, sums=sums)
    assert t.pixel_programs == samples * cdiv(pixels, t.block_pixels)
    of_program = t.tiles * t.block_channels
    assert t.splits * of_program >= channels > (t.splits - 1) * of_program
    # A program that walks takes all channels that it can without leaving multiprocessors idle.
    assert t.tiles == 1 or (t.walks and t.pixel_programs * (t.splits - 1) <= 16 * 132)
    assert t.num_warps == 1
    # Each program leaves a sum for each channel: a small part of its tile.
    assert not sums or t.block_pixels >= min(16, pixels)
    # 16 bytes, or one element, for each of 32 accesses of a thread at most.
    assert t.block_channels * t.block_pixels <= 2048
    assert all(n == next_power_of_2(n) for n in (t.block_channels, t.block_pixels))


@given(st.integers(1, 300), st.integers(1, 2000), extents, extents, element_sizes, st.sampled_from([1024, 4096]))
def test_group_tiles_cover_the_features(
    groups: int, members: int, rows: int, cols: int, element_size: int, finest: int
):
    t = group_tiling(groups, members, rows, cols, element_size, finest=finest)
    assert t.row_tiles * t.block_rows >= rows > (t.row_tiles - 1) * t.block_rows
    assert t.col_tiles * t.block_cols >= cols > (t.col_tiles - 1) * t.block_cols
    assert t.tiles == t.row_tiles * t.col_tiles
    # At most 16 elements a thread, 8 in float64.
    elements = t.block_members * t.block_rows * t.block_cols
    assert elements * max(element_size, 4) <= t.num_warps * 32 * 64
    assert t.num_warps <= 8
    # 64 bytes of each member where there are so many, and all members of a group as long as there is room for that.
    assert t.block_rows * t.block_cols * element_size >= 64 or (t.block_rows >= rows and t.block_cols >= cols)
    assert t.block_members >= members or elements == (4096 if element_size <= 4 else 2048)
    assert all(n == next_power_of_2(n) for n in (t.block_members, t.block_rows, t.block_cols, t.num_warps))


@given(st.integers(1, 300), st.integers(1, 20000), extents, element_sizes, st.booleans())
def test_channel_tiles_cover_the_map(samples: int, channels: int, pixels: int, element_size: int, channels_last: bool):
    t = channel_tiling(samples, channels, pixels, element_size, channels_last=channels_last)
    assert t.sample_tiles * t.block_samples >= samples > (t.sample_tiles - 1) * t.block_samples
    assert t.pixel_tiles * t.block_pixels >= pixels > (t.pixel_tiles - 1) * t.block_pixels
    # Several samples only where each is whole.
    assert t.block_samples == 1 or t.pixel_tiles == 1
    assert t.resident == (t.block_channels >= channels)
    # At most 16 elements a thread, 8 in float64.
    assert t.block_samples * t.block_channels * t.block_pixels * max(element_size, 4) <= t.num_warps * 32 * 64
    assert t.num_warps <= 16
    # Whole sectors of every plane.
    assert channels_last or t.block_pixels * element_size >= 32 or t.block_pixels >= pixels
    assert all(n == next_power_of_2(n) for n in (t.block_samples, t.block_channels, t.block_pixels, t.num_warps))


@given(extents, extents, extents)
def test_sums_of_partials_fill_a_chip_or_are_short(channels: int, outer: int, inner: int):
    t = sum_tiling(channels, outer, inner)
    assert t.channel_programs * t.block_channels >= channels > (t.channel_programs - 1) * t.block_channels
    of_span = t.tiles * t.block_partials
    assert t.spans * of_span >= outer * inner > (t.spans - 1) * of_span
    assert t.block_channels * t.block_partials <= min(4096, 256 * t.num_warps)
    assert t.tiles <= 4 or t.channel_programs * t.spans >= 120
    # The sums of the spans are added up by one more launch.
    assert sum_tiling(channels, t.spans, 1).spans == 1


@given(st.integers(0, 1 << 40))
def test_arithmetic(n: int):
    assert next_power_of_2(n) == (1 if n <= 1 else 2 ** math.ceil(math.log2(n)) if n < 1 << 40 else 1 << 40)
    assert cdiv(n, 7) == math.ceil(n / 7) or n > 1 << 50
    assert n % alignment(n) == 0
    assert alignment(n) in (1, 2, 4, 8, 16)
