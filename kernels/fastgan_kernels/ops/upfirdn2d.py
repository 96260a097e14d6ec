"""FIR resampling: zero insertion, padding, convolution and decimation of every channel, in one pass.

Along one axis, with z the image whose pixels are each followed by up - 1 zeros, and p zeros before it (p < 0 crops),

    y[i] = gain * sum_a k[K - 1 - a] * z[down * i + a - p],

or with k[a] where the kernel is not turned around. Factors and padding may differ between the axes. Only every up-th
tap meets a pixel. With p = up * q + r, 0 <= r < up, and j = down * i + up - 1 - r, these taps are a = b + up * m where
b = up - 1 - j % up, and they meet x[j // up - q + m].

The adjoint is the same op with up and down exchanged, the kernel turned around, and p replaced by K - 1 - p (which
undoes itself); the size of the output stands for the zeros after it. Gradients of every order are this one kernel.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_fir_kernel, check_images, factors, paddings
from fastgan_kernels.launch import launch_kernel
from fastgan_kernels.layout import contiguous, dense
from fastgan_kernels.precision import dot_precision, runs_on_amd, triton_compute_dtype
from fastgan_kernels.tiling import BandTiling, Pair, alignment, band_tiling, cdiv, next_power_of_2, strip_tiling


@triton.jit
def _split(x, N: tl.constexpr):
    """The columns of a tensor [P, N], N a power of two; a tensor [P] is one column."""
    if N == 1:
        return (x,)
    elif N == 2:
        return tl.split(x)
    else:
        even, odd = tl.split(tl.reshape(x, [x.shape[0], N // 2, 2]))
        evens, odds = _split(even, N // 2), _split(odd, N // 2)
        columns = ()
        for i in tl.static_range(N // 2):
            columns += (evens[i], odds[i])
        return columns


@triton.jit
def _join(columns, first: tl.constexpr, step: tl.constexpr, N: tl.constexpr):
    """The opposite: N columns of a tuple as one tensor, the ``first`` and every ``step``-th after it."""
    if N == 1:
        return columns[first]
    elif N == 2:
        return tl.join(columns[first], columns[first + step])
    else:
        evens, odds = _join(columns, first, 2 * step, N // 2), _join(columns, first + step, 2 * step, N // 2)
        return tl.reshape(tl.join(evens, odds), [evens.shape[0], N])


@triton.jit
def _filter(
    total, windows, taps, FIRST: tl.constexpr, PHASE: tl.constexpr, LEFT: tl.constexpr, UP: tl.constexpr,
    DOWN: tl.constexpr, PAD: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Adds the products of WIDTH taps, from the FIRST on, with the windows that they meet; the first starts at LEFT."""
    for b in tl.static_range((PAD - DOWN * PHASE) % UP, WIDTH, UP):
        total += taps[FIRST + b] * windows[(DOWN * PHASE + b - PAD) // UP - LEFT]
    return total


@triton.jit
def _add_row(
    sums, windows, taps, row_taps, PLACE: tl.constexpr, LEFT: tl.constexpr, UP: tl.constexpr, DOWN: tl.constexpr,
    PAD: tl.constexpr, EXTENT: tl.constexpr, OUTER: tl.constexpr, PHASES: tl.constexpr,
):  # fmt: skip
    """Adds the products of an input row with its taps, which for output row t are of tap row PLACE - DOWN * t.

    There are PHASES sums for each output row, and one window of columns for each place of a tap.
    """
    filtered = ()
    if OUTER:
        for phase in tl.static_range(PHASES):
            zero = tl.zeros_like(sums[0])
            filtered += (_filter(zero, windows, taps, 0, phase, LEFT, UP[1], DOWN[1], PAD[1], EXTENT[1]),)
    added = ()
    for i in tl.static_range(len(sums)):
        total = sums[i]
        if PLACE - i // PHASES * DOWN[0] >= 0 and PLACE - i // PHASES * DOWN[0] < EXTENT[0]:
            if OUTER:
                total += row_taps[PLACE - i // PHASES * DOWN[0]] * filtered[i % PHASES]
            else:
                total = _filter(
                    total, windows, taps, (PLACE - i // PHASES * DOWN[0]) * EXTENT[1], i % PHASES, LEFT, UP[1], DOWN[1],
                    PAD[1], EXTENT[1],
                )  # fmt: skip
        added += (total,)
    return added


@triton.jit
def _pointers(line, pitch, step, ROWS: tl.constexpr, LOW: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr):
    """Pointers to GROUPS groups of WIDE columns, from the LOW-th on, in each of ROWS rows."""
    pointers = ()
    for r in tl.static_range(ROWS):
        for g in tl.static_range(LOW, LOW + GROUPS):
            if WIDE == 1:
                pointers += (line + (r * pitch + g * step),)
            else:
                pointers += ((line + r * pitch)[:, None] + (tl.arange(0, WIDE)[None, :] + g * WIDE),)
    return pointers


@triton.jit
def _limits(col, width, rows, LOW: tl.constexpr, GROUPS: tl.constexpr, WIDE: tl.constexpr):
    """For each of these groups, how many rows it has: ``rows``, or 0 where it is outside of the image."""
    limits = ()
    for g in tl.static_range(LOW, LOW + GROUPS):
        if WIDE == 1:
            limit = tl.where((col + g >= 0) & (col + g < width), rows, 0)
        else:
            place = col[:, None] + (tl.arange(0, WIDE)[None, :] + g * WIDE)
            limit = tl.where((place >= 0) & (place < width), rows[:, None], 0)
        limits += (limit.to(tl.uint32, bitcast=True),)
    return limits


@triton.jit(do_not_specialize=["images", "channel_groups", "in_h", "in_groups", "out_h", "out_groups", "turns"])
def _strip_kernel(
    x_ptr, taps_ptr, y_ptr,
    images, channel_groups, in_h, in_groups, out_h, out_groups, turns,
    UP: tl.constexpr, DOWN: tl.constexpr, PAD: tl.constexpr, EXTENT: tl.constexpr, FLIP: tl.constexpr,
    OUTER: tl.constexpr, GAIN: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    CHANNEL_ALIGN: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
    BLOCK_STRIPS: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Strips of ``turns`` times ROWS output rows, COLS columns of them per thread.

    A thread loads aligned groups of WIDE columns, each input row once, and keeps sums of the output rows that rows to
    come will add to. An image is a sample in channels-last and a plane, of one channel, in contiguous layout. UP, DOWN,
    PAD and EXTENT, the shape of the kernel, are (y, x).
    """
    pid = tl.program_id(0)
    in_w, out_w = in_groups * IN_ALIGN, out_groups * OUT_ALIGN
    col_tiles = tl.cdiv(tl.cdiv(out_w, COLS), BLOCK_GROUPS)
    place = tl.arange(0, BLOCK_STRIPS * BLOCK_GROUPS)
    if CHANNELS_LAST:
        channels = channel_groups * CHANNEL_ALIGN
        channel_tiles = tl.cdiv(channels, BLOCK_CHANNELS)
        channel = (pid % channel_tiles * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
        pid = pid // channel_tiles
        place = place[:, None]
    else:
        channels = 1
        channel = 0
    strip = pid // col_tiles * BLOCK_STRIPS + place // BLOCK_GROUPS
    group = pid % col_tiles * BLOCK_GROUPS + place % BLOCK_GROUPS
    strips = tl.cdiv(out_h, ROWS * turns)
    image, turn = strip // strips, strip % strips * turns
    lane_exists = (image < images) & (channel < channels)

    # A turn reads the rows FIRST to LAST and completes ROWS output rows. LEAD turns before the first one read what else
    # these meet, from row TOP on. A turn leaves the sums of OPEN more output rows to those after it.
    NEW: tl.constexpr = ROWS * DOWN[0] // UP[0]
    TOP: tl.constexpr = -(PAD[0] // UP[0])
    LAST: tl.constexpr = (EXTENT[0] - 1 - PAD[0] + DOWN[0] * (ROWS - 1)) // UP[0]
    FIRST: tl.constexpr = LAST - NEW + 1
    LEAD: tl.constexpr = (LAST - TOP) // NEW if LAST > TOP else 0
    REACHED: tl.constexpr = (UP[0] * LAST + PAD[0]) // DOWN[0] + 1
    OPEN: tl.constexpr = REACHED - ROWS if REACHED > ROWS else 0
    # Columns that the outputs of a thread meet, from its first one on, and the groups that these are in.
    LEFT: tl.constexpr = -(PAD[1] // UP[1])
    RIGHT: tl.constexpr = (EXTENT[1] - 1 - PAD[1] + DOWN[1] * (COLS - 1)) // UP[1]
    LOW: tl.constexpr = LEFT // WIDE
    GROUPS: tl.constexpr = RIGHT // WIDE + 1 - LOW
    # A sum has every PHASES-th of a thread's columns, a store SIDE of them.
    PHASES: tl.constexpr = COLS if CHANNELS_LAST else UP[1]
    N: tl.constexpr = COLS // PHASES
    STEP: tl.constexpr = DOWN[1] * PHASES // UP[1]
    SIDE: tl.constexpr = 1 if CHANNELS_LAST else COLS

    TAPS: tl.constexpr = EXTENT[0] if OUTER else EXTENT[0] * EXTENT[1]
    taps, row_taps = (), ()
    for a in tl.static_range(TAPS):
        tap = tl.full((), 1.0, COMPUTE)
        if taps_ptr is not None:
            tap = tl.load(taps_ptr + (TAPS - 1 - a if FLIP else a)).to(COMPUTE)
        taps += (tap * tl.full((), GAIN, COMPUTE),)
        row_taps += (tap,)

    top, out_row = turn * NEW + TOP, turn * ROWS
    col, out_col = group * (COLS * DOWN[1] // UP[1]), group * COLS
    image = image.to(tl.int64)
    in_pitch, out_pitch = in_w.to(tl.int64) * channels, out_w.to(tl.int64) * channels
    x_ptr += (image * in_h + top + (FIRST - TOP - LEAD * NEW)) * in_pitch + col.to(tl.int64) * channels + channel
    y_ptr += (image * out_h + out_row - LEAD * ROWS) * out_pitch + out_col.to(tl.int64) * channels + channel
    # Rows are counted from the first one of the strip that exists, so that one comparison, unsigned, is the mask.
    rows = tl.where(lane_exists, tl.maximum(in_h - tl.maximum(top, 0), 0), 0)
    reads = _limits(col, in_w, rows, LOW, GROUPS, WIDE)
    writes = _limits(out_col, out_w, tl.where(lane_exists, out_h - out_row, 0), 0, COLS // SIDE, SIDE)
    row = tl.minimum(top, 0) + (FIRST - TOP - LEAD * NEW)
    out_row = tl.zeros_like(row) - LEAD * ROWS

    if CHANNELS_LAST:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS, BLOCK_CHANNELS], COMPUTE)
    elif N == 1:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS], COMPUTE)
    else:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS, N], COMPUTE)
    sums = (zero,) * (OPEN * PHASES)
    for _ in tl.range(turns + LEAD):
        loaded, sources = (), _pointers(x_ptr, in_pitch, channels, NEW, LOW, GROUPS, WIDE)
        for r in tl.static_range(NEW):
            met = (row + r).to(tl.uint32, bitcast=True)
            if WIDE > 1:
                met = met[:, None]
            for g in tl.static_range(GROUPS):
                loaded += (tl.load(sources[r * GROUPS + g], mask=met < reads[g], other=0.0),)
        sums += (zero,) * (ROWS * PHASES)
        for r in tl.static_range(NEW):
            columns, windows = (), ()
            for g in tl.static_range(GROUPS):
                columns += _split(loaded[r * GROUPS + g].to(COMPUTE), WIDE)
            for first in tl.static_range(LEFT, RIGHT - STEP * (N - 1) + 1):
                windows += (_join(columns, first - LOW * WIDE, STEP, N),)
            sums = _add_row(
                sums, windows, taps, row_taps, UP[0] * (FIRST + r) + PAD[0], LEFT, UP, DOWN, PAD, EXTENT, OUTER, PHASES
            )
        targets = _pointers(y_ptr, out_pitch, channels, ROWS, 0, COLS // SIDE, SIDE)
        for t in tl.static_range(ROWS):
            made = (out_row + t).to(tl.uint32, bitcast=True)
            if SIDE > 1:
                made = made[:, None]
            for g in tl.static_range(COLS // SIDE):
                if SIDE == 1:
                    y = sums[t * PHASES + g]
                else:
                    y = tl.reshape(_join(sums, t * PHASES, 1, PHASES), [BLOCK_STRIPS * BLOCK_GROUPS, COLS])
                tl.store(targets[t * (COLS // SIDE) + g], y.to(y_ptr.dtype.element_ty), mask=made < writes[g])
        sums = sums[ROWS * PHASES :]
        x_ptr, row = x_ptr + NEW * in_pitch, row + NEW
        y_ptr, out_row = y_ptr + ROWS * out_pitch, out_row + ROWS


@triton.jit
def band(
    taps_ptr, first_in, first_out, up, down, pad, taps, direction, COMPUTE: tl.constexpr,
    INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """The matrix [INPUTS, OUTPUTS] that maps a row of pixels to a row of filtered ones; or its transpose.

    Input c, counted from ``first_in``, meets output i by the tap up * c - down * i + pad. The kernel is taken as it is
    where ``direction`` is 1, and turned around where it is -1.
    """
    if TRANSPOSED:
        c, i = first_in + tl.arange(0, INPUTS)[None, :], first_out + tl.arange(0, OUTPUTS)[:, None]
    else:
        c, i = first_in + tl.arange(0, INPUTS)[:, None], first_out + tl.arange(0, OUTPUTS)[None, :]
    tap = up * c - down * i + pad
    if taps_ptr is None:
        return tl.where(tap == 0, 1.0, 0.0).to(COMPUTE)
    else:
        exists = (tap >= 0) & (tap < taps)
        tap = (1 - direction) // 2 * (taps - 1) + direction * tap
        return tl.load(taps_ptr + tap, mask=exists, other=0.0).to(COMPUTE)


@triton.jit
def _exists(row, rows):
    """Whether the row exists, as [1, 1]: the interpreter would turn a scalar into a mask of integers."""
    row = row + tl.zeros([1, 1], tl.int32)
    return (row >= 0) & (row < rows)


@triton.jit(
    do_not_specialize=[
        "images", "channel_groups", "in_h", "in_groups", "out_h", "out_groups", "up_y", "up_x", "down_y", "down_x",
        "origin_y", "origin_x", "lead_y", "lead_x", "kh", "kw", "step_groups", "direction", "gain",
    ]
)  # fmt: skip
def _band_kernel(
    x_ptr, row_taps_ptr, taps_ptr, y_ptr,
    images, channel_groups, in_h, in_groups, out_h, out_groups, up_y, up_x, down_y, down_x,
    origin_y, origin_x, lead_y, lead_x, kh, kw, step_groups, direction, gain,
    SEPARABLE: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    CHANNEL_ALIGN: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr, STEP_ALIGN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_OUT: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Tiles of ROWS output rows of each phase: a sum over the rows of taps, and a band matrix over the columns.

    BLOCK_ROWS of a phase are computed at once; in channels-last one row, of BLOCK_CHANNELS channels, at a time. Taps
    and factors only set how often loops run, so one compiled kernel serves all filters. Absent taps stand for one tap
    of 1.
    """
    pid = tl.program_id(0)
    channels = channel_groups * CHANNEL_ALIGN if CHANNELS_LAST else 1
    in_w, out_w, step = in_groups * IN_ALIGN, out_groups * OUT_ALIGN, step_groups * STEP_ALIGN
    channel_tiles = tl.cdiv(channels, BLOCK_CHANNELS)
    first_channel = pid % channel_tiles * BLOCK_CHANNELS
    pid = pid // channel_tiles
    col_tiles = tl.cdiv(out_w, step)
    first_out = pid % col_tiles * step
    pid = pid // col_tiles
    strips = tl.cdiv(tl.cdiv(out_h, up_y), ROWS)
    first_row = pid % strips * ROWS
    image = (pid // strips).to(tl.int64)

    # Rounded down to the start of a wide access; the shift makes the operands of the division positive.
    first_in = (first_out * down_x + lead_x) // up_x - origin_x
    first_in = ((first_in + 1024 * STEP_ALIGN) // STEP_ALIGN - 1024) * STEP_ALIGN
    pad_x = origin_x * up_x + up_x - 1 - lead_x

    in_col = first_in + tl.arange(0, BLOCK_IN)
    out_col = first_out + tl.arange(0, BLOCK_OUT)
    in_pitch = in_w.to(tl.int64) * channels
    out_pitch = out_w.to(tl.int64) * channels
    x_ptr += image * in_h * in_pitch
    y_ptr += image * out_h * out_pitch
    met = (in_col >= 0) & (in_col < in_w)
    writes = (out_col < first_out + step) & (out_col < out_w)
    if CHANNELS_LAST:
        channel = first_channel + tl.arange(0, BLOCK_CHANNELS)
        column = in_col.to(tl.int64)[:, None] * channels + channel[None, :]
        met = met[:, None] & (channel < channels)[None, :]
        out_column = out_col.to(tl.int64)[:, None] * channels + channel[None, :]
        writes = writes[:, None] & (channel < channels)[None, :]
    if SEPARABLE:
        kept = band(
            taps_ptr, first_in, first_out, up_x, down_x, pad_x, kw, direction, COMPUTE, BLOCK_IN, BLOCK_OUT,
            CHANNELS_LAST,
        )  # fmt: skip
    for turn in tl.range(up_y * (ROWS // BLOCK_ROWS), disable_licm=True):
        phase, start = turn % up_y, turn // up_y * BLOCK_ROWS
        lead = phase * down_y + lead_y
        first_tap = up_y - 1 - lead % up_y
        tap_rows = (kh - first_tap + up_y - 1) // up_y
        first_in_row = (first_row + start) * down_y + lead // up_y - origin_y
        if CHANNELS_LAST:
            total = tl.zeros([BLOCK_IN if SEPARABLE else BLOCK_OUT, BLOCK_CHANNELS], COMPUTE)
        else:
            total = tl.zeros([BLOCK_ROWS, BLOCK_IN if SEPARABLE else BLOCK_OUT], COMPUTE)
        for m in tl.range(tap_rows, disable_licm=True):
            in_row = first_in_row + m
            if CHANNELS_LAST:
                line = x_ptr + in_row.to(tl.int64) * in_pitch
                x = tl.load(line + column, mask=met & _exists(in_row, in_h), other=0.0).to(COMPUTE)
            else:
                rows = in_row + tl.arange(0, BLOCK_ROWS) * down_y
                exists = (rows >= 0) & (rows < in_h)
                place = rows[:, None] * in_w + in_col[None, :]
                x = tl.load(x_ptr + place, mask=exists[:, None] & met[None, :], other=0.0).to(COMPUTE)
            tap_row = first_tap + m * up_y
            tap_row = (1 - direction) // 2 * (kh - 1) + direction * tap_row
            if SEPARABLE:
                if row_taps_ptr is None:
                    total += x
                else:
                    total += tl.load(row_taps_ptr + tap_row).to(COMPUTE) * x
            else:
                columns = band(
                    taps_ptr + tap_row * kw, first_in, first_out, up_x, down_x, pad_x, kw, direction, COMPUTE, BLOCK_IN,
                    BLOCK_OUT, CHANNELS_LAST,
                )  # fmt: skip
                if CHANNELS_LAST:
                    total = tl.dot(columns, x, total, input_precision=PRECISION)
                else:
                    total = tl.dot(x, columns, total, input_precision=PRECISION)
        if SEPARABLE:
            if CHANNELS_LAST:
                total = tl.dot(kept, total, input_precision=PRECISION)
            else:
                total = tl.dot(total, kept, input_precision=PRECISION)
        y = (total * gain).to(y_ptr.dtype.element_ty)
        if CHANNELS_LAST:
            row = (first_row + start) * up_y + phase
            tl.store(y_ptr + (row.to(tl.int64) * out_pitch + out_column), y, mask=writes & _exists(row, out_h))
        else:
            row = (first_row + start + tl.arange(0, BLOCK_ROWS)) * up_y + phase
            place = row[:, None] * out_w + out_col[None, :]
            tl.store(y_ptr + place, y, mask=(row < out_h)[:, None] & writes[None, :])


@triton.jit(
    do_not_specialize=[
        "channels", "in_h", "in_w", "out_h", "out_w", "up_y", "up_x", "down_y", "down_x", "origin_y", "origin_x",
        "lead_y", "lead_x", "kh", "kw",
    ]
)  # fmt: skip
def _loop_kernel(
    x_ptr, taps_ptr, y_ptr,
    channels, in_h, in_w, out_h, out_w, up_y, up_x, down_y, down_x, origin_y, origin_x, lead_y, lead_x, kh, kw,
    FLIP: tl.constexpr, OUTER: tl.constexpr, GAIN: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of an output row, with one load and one product per tap that a pixel meets. Takes any filter."""
    tiles = tl.cdiv(out_w * channels, BLOCK)
    line = tl.program_id(0) // tiles
    row = line % out_h
    image = (line // out_h).to(tl.int64)
    place = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    col = place // channels
    lead_row, lead_col = row * down_y + lead_y, col * down_x + lead_x
    tap_row, tap_col = up_y - 1 - lead_row % up_y, up_x - 1 - lead_col % up_x
    in_row, in_col = lead_row // up_y - origin_y, lead_col // up_x - origin_x
    x_ptr += (image * in_h * in_w) * channels + place % channels
    exists = place < out_w * channels
    total = tl.zeros([BLOCK], COMPUTE)
    for m in range((kh + up_y - 1) // up_y):
        a, r = tap_row + m * up_y, in_row + m
        for n in range((kw + up_x - 1) // up_x):
            b, c = tap_col + n * up_x, in_col + n
            met = exists & (a < kh) & (b < kw) & (r >= 0) & (r < in_h) & (c >= 0) & (c < in_w)
            x = tl.load(x_ptr + (r.to(tl.int64) * in_w + c) * channels, mask=met, other=0.0).to(COMPUTE)
            kernel_row = kh - 1 - a if FLIP else a
            kernel_col = kw - 1 - b if FLIP else b
            if taps_ptr is None:
                tap = tl.full((), 1.0, COMPUTE)
            elif OUTER:
                tap = tl.load(taps_ptr + kernel_row, mask=a < kh, other=0.0).to(COMPUTE)
                tap *= tl.load(taps_ptr + kernel_col, mask=met, other=0.0).to(COMPUTE)
            else:
                tap = tl.load(taps_ptr + kernel_row * kw + kernel_col, mask=met, other=0.0).to(COMPUTE)
            total += tap * x
    y = (total * tl.full((), GAIN, COMPUTE)).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + (image * out_h + row) * out_w * channels + place, y, mask=exists)


def _new_output(x: Tensor, out_h: int, out_w: int) -> Tensor:
    """Uninitialized memory for the output of ``x``, in the layout of ``dense(x)``."""
    n, c = x.shape[:2]
    if x.is_contiguous() or not x.movedim(1, -1).is_contiguous():
        return x.new_empty(n, c, out_h, out_w)
    return x.new_empty(n, out_h, out_w, c).movedim(-1, 1)


def extents_of_kernel(kernel: Tensor | None) -> tuple[int, int]:
    """Rows and columns of a kernel; a vector stands for its outer product, ``None`` for one tap of 1."""
    return (1, 1) if kernel is None else (kernel.shape[0], kernel.shape[-1])


class _Resampling(NamedTuple):
    """A kernel, factors and padding as (y, x), gain, and whether the kernel is turned around."""

    kernel: Tensor | None
    up: Pair
    down: Pair
    pad: Pair
    gain: float
    flip: bool

    @property
    def origins(self) -> tuple[int, int, int, int]:
        """For each axis q, and up - 1 - r, of the padding up * q + r."""
        (origin_y, rest_y), (origin_x, rest_x) = (divmod(p, u) for p, u in zip(self.pad, self.up, strict=True))
        return origin_y, origin_x, self.up[0] - 1 - rest_y, self.up[1] - 1 - rest_x

    @property
    def is_vector(self) -> bool:
        return self.kernel is not None and self.kernel.dim() == 1

    @property
    def is_separable(self) -> bool:
        return self.is_vector or min(self.kernel.shape) == 1


# The most taps that are unrolled: four by four, as in StyleGAN's blurs.
_MOST_UNROLLED = 16


def _launch(
    x: Tensor, kernel: Tensor | None, up: list[int], down: list[int], pad: list[int], size: Sequence[int], gain: float,
    flip: bool,
) -> Tensor:  # fmt: skip
    y = _new_output(x, *size)
    if y.numel() == 0:
        return y
    if x.numel() == 0:
        return y.zero_()
    x = dense(x)
    fir = _Resampling(contiguous(kernel), tuple(up), tuple(down), tuple(pad), gain, flip)
    is_short = math.prod(extents_of_kernel(kernel)) <= _MOST_UNROLLED
    if is_short and {*up, *down} <= {1, 2, 4}:
        _launch_strips(x, y, fir)
    elif not is_short and (tiling := _bands(x, y, fir)) is not None:
        _launch_bands(x, y, fir, tiling)
    else:
        _launch_loop(x, y, fir)
    return y


def _bands(x: Tensor, y: Tensor, fir: _Resampling) -> BandTiling | None:
    """The tiling for the kernel of bands; ``None`` if it does not take the problem."""
    # That kernel has 32-bit offsets within a plane.
    if x.dtype == torch.float64 or max(math.prod(x.shape[2:]), math.prod(y.shape[2:])) >= 2**31:
        return None
    return band_tiling(
        *y.shape[2:], x.element_size(), extents_of_kernel(fir.kernel)[1], separable=fir.is_separable,
        up=fir.up, down=fir.down, channels_last=not x.is_contiguous(), widest=64 if runs_on_amd() else 128,
    )  # fmt: skip


def _images(x: Tensor) -> tuple[int, int]:
    """Images and their channels, of a dense tensor: a contiguous plane is an image of one channel."""
    n, c = x.shape[:2]
    return (n * c, 1) if x.is_contiguous() else (n, c)


def _geometry(x: Tensor, y: Tensor) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Images, channels, and the sizes of x and y; and what a kernel has to know of them when it is compiled.

    The length of an axis whose elements are neighbors in memory is divided by a power of two, up to an access of 16
    bytes, which is a constant.
    """
    (images, channels), (in_h, in_w), (out_h, out_w) = _images(x), x.shape[2:], y.shape[2:]
    channel_align, wide = alignment(channels), 16 // x.element_size() if x.is_contiguous() else 1
    in_align, out_align = math.gcd(in_w, wide), math.gcd(out_w, wide)
    return (images, channels // channel_align, in_h, in_w // in_align, out_h, out_w // out_align), {
        "CHANNELS_LAST": not x.is_contiguous(),
        "COMPUTE": triton_compute_dtype(x.dtype),
        "CHANNEL_ALIGN": channel_align,
        "IN_ALIGN": in_align,
        "OUT_ALIGN": out_align,
    }


def _launch_strips(x: Tensor, y: Tensor, fir: _Resampling) -> None:
    tiling = strip_tiling(
        *_images(x), *y.shape[2:], x.element_size(), up=fir.up, down=fir.down, channels_last=not x.is_contiguous(),
        threads_per_warp=64 if runs_on_amd() else 32,
    )  # fmt: skip
    numbers, constants = _geometry(x, y)
    launch_kernel(
        _strip_kernel, tiling.grid, (x, fir.kernel, y), (*numbers, tiling.turns),
        UP=fir.up, DOWN=fir.down, PAD=fir.pad, EXTENT=extents_of_kernel(fir.kernel), FLIP=fir.flip,
        OUTER=fir.is_vector, GAIN=fir.gain, ROWS=tiling.rows, COLS=tiling.cols,
        WIDE=math.gcd(constants["IN_ALIGN"], tiling.cols * fir.down[1] // fir.up[1]), **constants, **tiling.constants,
    )  # fmt: skip


def _launch_bands(x: Tensor, y: Tensor, fir: _Resampling, tiling: BandTiling) -> None:
    numbers, constants = _geometry(x, y)
    kernel, (kh, kw) = fir.kernel, extents_of_kernel(fir.kernel)
    row_taps, taps = None, kernel
    if fir.is_separable:
        row_taps = kernel if kernel.dim() == 1 or kw == 1 else None
        taps = kernel if kernel.dim() == 1 or kh == 1 else None
    numbers += *fir.up, *fir.down, *fir.origins, kh, kw, tiling.step // tiling.align, -1 if fir.flip else 1, fir.gain
    launch_kernel(
        _band_kernel, (tiling.programs(*_images(x), *y.shape[2:], fir.up[0]),), (x, row_taps, taps, y), numbers,
        SEPARABLE=fir.is_separable, PRECISION=dot_precision(), STEP_ALIGN=tiling.align, ROWS=tiling.rows, **constants,
        **tiling.constants,
        # A pipeline would copy the tiles of several turns to shared memory.
        num_stages=1,
    )  # fmt: skip


def _launch_loop(x: Tensor, y: Tensor, fir: _Resampling) -> None:
    images, channels = _images(x)
    out_h, out_w = y.shape[2:]
    block = min(256, next_power_of_2(out_w * channels))
    numbers = channels, *x.shape[2:], out_h, out_w, *fir.up, *fir.down, *fir.origins, *extents_of_kernel(fir.kernel)
    launch_kernel(
        _loop_kernel, (images * out_h * cdiv(out_w * channels, block),), (x, fir.kernel, y), numbers,
        FLIP=fir.flip, OUTER=fir.is_vector, GAIN=fir.gain,
        COMPUTE=triton_compute_dtype(x.dtype), BLOCK=block, num_warps=max(1, block // 32),
    )  # fmt: skip


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, ctx.up, ctx.down, ctx.pad, _, ctx.gain, ctx.flip = inputs
    ctx.size = list(x.shape[2:])
    ctx.save_for_backward(kernel)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    """The adjoint."""
    (kernel,) = ctx.saved_tensors
    pad = [k - 1 - p for k, p in zip(extents_of_kernel(kernel), ctx.pad, strict=True)]
    return _upfirdn2d_backward(dy, kernel, ctx.down, ctx.up, pad, ctx.size, ctx.gain, not ctx.flip)


def _op(name: str, *, is_gradient: bool) -> DifferentiableOp:
    return DifferentiableOp(
        f"{name}(Tensor x, Tensor? kernel, int[] up, int[] down, int[] pad, SymInt[] size, float gain, bool flip)"
        " -> Tensor",
        launch=_launch,
        fake=lambda x, kernel, up, down, pad, size, gain, flip: _new_output(x, *size),
        setup_context=_save_for_backward,
        backward=_backward,
        is_gradient=is_gradient,
    )


_upfirdn2d_backward = _op("upfirdn2d_backward", is_gradient=True)
_upfirdn2d = _op("upfirdn2d", is_gradient=False)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor | None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
    flip: bool = False,
) -> Tensor:
    """Resamples every channel by a FIR filter: inserts zeros, pads, filters and keeps every ``down``-th pixel.

    Args:
        x: [N, C, H, W], any floating-point type; contiguous and channels-last are read as they are.
        kernel: [kh, kw], or [k] for its outer product with itself; any floating-point type. ``None`` is a single tap of
            1. It is a constant: no gradient is computed for it.
        up: each pixel is followed by ``up - 1`` zeros; at least 1. One number for both axes, or (x, y).
        down: one of ``down`` pixels is kept, the first of them first; at least 1. One number or (x, y).
        padding: zeros around the image after zero insertion: one number for all sides, (x, y), or
            (left, right, top, bottom); a negative one crops.
        gain: multiplies the output; finite. ``up**2`` keeps the brightness of an image resampled up.
        flip: by default the kernel is turned around, as a convolution has it; ``True`` applies it as it is.

    Returns:
        [N, C, (up_y * H + top + bottom - kh) // down_y + 1, (up_x * W + left + right - kw) // down_x + 1] in the type
        and layout of ``x``. Differentiable to any order in ``x``, each by the same kernel. Saves only ``kernel``.

    Raises:
        ValueError: for a shape, device or value other than those above; for a kernel larger than the padded image, or
            one that requires a gradient.
        TypeError: for an integer or complex tensor.
    """
    check_images("upfirdn2d", x)
    check_fir_kernel("upfirdn2d", "kernel", kernel, x)
    (up_x, up_y), (down_x, down_y) = factors("upfirdn2d", "up", up), factors("upfirdn2d", "down", down)
    pads = paddings("upfirdn2d", padding)
    if not -math.inf < gain < math.inf:
        raise ValueError(f"upfirdn2d: gain is {gain}, expected a finite number")
    left, right, top, bottom = pads
    kh, kw = extents_of_kernel(kernel)
    padded = x.shape[2] * up_y + top + bottom, x.shape[3] * up_x + left + right
    if padded[0] < kh or padded[1] < kw:
        raise ValueError(f"upfirdn2d: kernel is {[kh, kw]}, expected at most {list(padded)}, the image after padding")
    if not runs_triton(x):
        return reference.upfirdn2d(
            guard_second_order(x), kernel, up=(up_x, up_y), down=(down_x, down_y), padding=pads, gain=gain, flip=flip
        )
    size = [(padded[0] - kh) // down_y + 1, (padded[1] - kw) // down_x + 1]
    # From here on y comes before x, as in shapes.
    return _upfirdn2d(x, kernel, [up_y, up_x], [down_y, down_x], [top, left], size, float(gain), not flip)
