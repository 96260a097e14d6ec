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
def _add_row(
    sums, columns, taps, row_taps, PLACE: tl.constexpr, FIRST: tl.constexpr, UP: tl.constexpr, DOWN_Y: tl.constexpr,
    DOWN_X: tl.constexpr, PAD: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, OUTER: tl.constexpr,
    COLS: tl.constexpr, PHASES: tl.constexpr,
):  # fmt: skip
    """Adds the products of an input row with its taps, which for output row t are of tap row PLACE - DOWN_Y * t.

    ``columns`` are those from FIRST on. A sum has every PHASES-th of the COLS columns of an output row.
    """
    N: tl.constexpr = COLS // PHASES
    STEP: tl.constexpr = DOWN_X * PHASES // UP
    met = ()
    for start in tl.static_range(len(columns) - STEP * (N - 1)):
        met += (_join(columns, start, STEP, N),)
    if OUTER:
        filtered = ()
        for phase in tl.static_range(PHASES):
            total = tl.zeros_like(sums[0])
            for b in tl.static_range((PAD - DOWN_X * phase) % UP, KW, UP):
                total += taps[b] * met[(DOWN_X * phase + b - PAD) // UP - FIRST]
            filtered += (total,)
    added = ()
    for t in tl.static_range(len(sums) // PHASES):
        for phase in tl.static_range(PHASES):
            total = sums[t * PHASES + phase]
            if PLACE - DOWN_Y * t >= 0 and PLACE - DOWN_Y * t < KH:
                if OUTER:
                    total += row_taps[PLACE - DOWN_Y * t] * filtered[phase]
                else:
                    for b in tl.static_range((PAD - DOWN_X * phase) % UP, KW, UP):
                        tap = taps[(PLACE - DOWN_Y * t) * KW + b]
                        total += tap * met[(DOWN_X * phase + b - PAD) // UP - FIRST]
            added += (total,)
    return added


@triton.jit
def _add_rows(
    sums, pointers, row, limits, taps, row_taps, FROM: tl.constexpr, TO: tl.constexpr, FIRST: tl.constexpr,
    WIDE: tl.constexpr, UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    PAD_Y: tl.constexpr, PAD_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, OUTER: tl.constexpr,
    COLS: tl.constexpr, PHASES: tl.constexpr,
):  # fmt: skip
    """Adds the input rows FROM to TO, counted from ``row``; all are loaded first, to wait for memory together."""
    loaded = ()
    for r in tl.static_range(FROM, TO + 1):
        exists = (row + r).to(tl.uint32, bitcast=True)
        for g in tl.static_range(len(limits)):
            mask = exists < limits[g] if WIDE == 1 else (exists < limits[g])[:, None]
            loaded += (tl.load(pointers[(r - FROM) * len(limits) + g], mask=mask, other=0.0),)
    for r in tl.static_range(FROM, TO + 1):
        columns = ()
        for g in tl.static_range(len(limits)):
            columns += _split(loaded[(r - FROM) * len(limits) + g].to(sums[0].dtype), WIDE)
        sums = _add_row(
            sums, columns, taps, row_taps, UP_Y * r + PAD_Y, FIRST, UP_X, DOWN_Y, DOWN_X, PAD_X, KH, KW, OUTER, COLS,
            PHASES,
        )  # fmt: skip
    return sums


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


@triton.jit(do_not_specialize=["images", "channel_groups", "in_h", "in_groups", "out_h", "out_groups", "turns"])
def _strip_kernel(
    x_ptr, taps_ptr, y_ptr,
    images, channel_groups, in_h, in_groups, out_h, out_groups, turns,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    PAD_Y: tl.constexpr, PAD_X: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, FLIP: tl.constexpr,
    OUTER: tl.constexpr, GAIN: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr,
    CHANNEL_ALIGN: tl.constexpr, IN_ALIGN: tl.constexpr, OUT_ALIGN: tl.constexpr, WIDE: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
    BLOCK_STRIPS: tl.constexpr, BLOCK_GROUPS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Strips of ``turns`` times ROWS output rows, COLS columns of them per thread.

    A thread loads aligned groups of WIDE columns, each input row once, and keeps sums of the output rows that rows to
    come will add to. An image is a sample in channels-last and a plane, of one channel, in contiguous layout.
    """
    pid = tl.program_id(0)
    in_w, out_w = in_groups * IN_ALIGN, out_groups * OUT_ALIGN
    col_groups = tl.cdiv(out_w, COLS)
    col_tiles = tl.cdiv(col_groups, BLOCK_GROUPS)
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
    NEW: tl.constexpr = ROWS * DOWN_Y // UP_Y  # input rows of a turn
    row, col = turn * NEW, group * (COLS * DOWN_X // UP_X)
    out_row, out_col = turn * ROWS, group * COLS
    lane_exists = image < images
    if CHANNELS_LAST:
        lane_exists &= channel < channels
    image = image.to(tl.int64)
    in_pitch, out_pitch = in_w.to(tl.int64) * channels, out_w.to(tl.int64) * channels
    x_ptr += (image * in_h + row) * in_pitch + col.to(tl.int64) * channels + channel
    y_ptr += (image * out_h + out_row) * out_pitch + out_col.to(tl.int64) * channels + channel

    # Columns that the outputs of a thread meet, from ``col`` on, and the groups that these are in.
    LEFT: tl.constexpr = -(PAD_X // UP_X)
    RIGHT: tl.constexpr = (KW - 1 - PAD_X + DOWN_X * (COLS - 1)) // UP_X
    LOW: tl.constexpr = LEFT // WIDE
    GROUPS: tl.constexpr = RIGHT // WIDE + 1 - LOW
    # Row r exists in a group of columns if r, as a number without sign, is less than this.
    limits = ()
    for g in tl.static_range(LOW, LOW + GROUPS):
        exists = lane_exists & (col + g * WIDE >= 0) & (col + g * WIDE < in_w)
        limits += (tl.where(exists, in_h, 0).to(tl.uint32, bitcast=True),)
    TAPS: tl.constexpr = KH if OUTER else KH * KW
    taps, row_taps = (), ()
    for a in tl.static_range(TAPS):
        tap = tl.full((), 1.0, COMPUTE)
        if taps_ptr is not None:
            tap = tl.load(taps_ptr + (TAPS - 1 - a if FLIP else a)).to(COMPUTE)
        taps += (tap * tl.full((), GAIN, COMPUTE),)
        row_taps += (tap,)

    PHASES: tl.constexpr = COLS if CHANNELS_LAST else UP_X
    if CHANNELS_LAST:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS, BLOCK_CHANNELS], COMPUTE)
    elif COLS == PHASES:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS], COMPUTE)
    else:
        zero = tl.zeros([BLOCK_STRIPS * BLOCK_GROUPS, COLS // PHASES], COMPUTE)
    # The last input row of a turn, and how many output rows of the next turns the rows up to it add to.
    TOP: tl.constexpr = -(PAD_Y // UP_Y)
    LAST: tl.constexpr = (KH - 1 - PAD_Y + DOWN_Y * (ROWS - 1)) // UP_Y
    REACHED: tl.constexpr = (UP_Y * LAST + PAD_Y) // DOWN_Y + 1
    OPEN: tl.constexpr = REACHED - ROWS if REACHED > ROWS else 0
    sums = (zero,) * (OPEN * PHASES)
    if OPEN > 0:
        pointers = _pointers(x_ptr + TOP * in_pitch, in_pitch, channels, LAST - NEW + 1 - TOP, LOW, GROUPS, WIDE)
        sums = _add_rows(
            sums, pointers, row, limits, taps, row_taps, TOP, LAST - NEW, LOW * WIDE, WIDE, UP_Y, UP_X, DOWN_Y, DOWN_X,
            PAD_Y, PAD_X, KH, KW, OUTER, COLS, PHASES,
        )  # fmt: skip
    # The loop carries the pointers: the compiler analyzes carried ones in a fraction of the time.
    pointers = _pointers(x_ptr + (LAST - NEW + 1) * in_pitch, in_pitch, channels, NEW, LOW, GROUPS, WIDE)
    for _ in tl.range(turns):
        sums = _add_rows(
            sums + (zero,) * (ROWS * PHASES), pointers, row, limits, taps, row_taps, LAST - NEW + 1, LAST, LOW * WIDE,
            WIDE, UP_Y, UP_X, DOWN_Y, DOWN_X, PAD_Y, PAD_X, KH, KW, OUTER, COLS, PHASES,
        )  # fmt: skip
        for t in tl.static_range(ROWS):
            line = y_ptr + t * out_pitch
            row_exists = lane_exists & (out_row + t < out_h)
            if CHANNELS_LAST or COLS == 1:
                for j in tl.static_range(COLS):
                    y = sums[t * COLS + j].to(y_ptr.dtype.element_ty)
                    tl.store(line + j * channels, y, mask=row_exists & (out_col + j < out_w))
            else:
                y = tl.reshape(_join(sums, t * PHASES, 1, PHASES), [BLOCK_STRIPS * BLOCK_GROUPS, COLS])
                cols = tl.arange(0, COLS)[None, :]
                writes = row_exists[:, None] & (out_col[:, None] + cols < out_w)
                tl.store(line[:, None] + cols, y.to(y_ptr.dtype.element_ty), mask=writes)
        next_pointers = ()
        for i in tl.static_range(len(pointers)):
            next_pointers += (pointers[i] + NEW * in_pitch,)
        pointers = next_pointers
        row += NEW
        out_row += ROWS
        y_ptr += ROWS * out_pitch
        sums = sums[ROWS * PHASES :]


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


def _geometry(x: Tensor) -> tuple[int, int]:
    """Images and their channels, of a dense tensor: a contiguous plane is an image of one channel."""
    n, c = x.shape[:2]
    return (n * c, 1) if x.is_contiguous() else (n, c)


def _alignments(x: Tensor, y: Tensor) -> tuple[int, int]:
    """Powers of two, up to an access of 16 bytes, that divide the rows; in channels-last 1, as channels are aligned."""
    wide = 16 // x.element_size() if x.is_contiguous() else 1
    return math.gcd(x.shape[3], wide), math.gcd(y.shape[3], wide)


def _launch_strips(x: Tensor, y: Tensor, fir: _Resampling) -> None:
    images, channels = _geometry(x)
    channels_last, (in_h, in_w), (out_h, out_w) = not x.is_contiguous(), x.shape[2:], y.shape[2:]
    tiling = strip_tiling(
        images, channels, out_h, out_w, x.element_size(), up=fir.up, down=fir.down, channels_last=channels_last,
        threads_per_warp=64 if runs_on_amd() else 32,
    )  # fmt: skip
    in_align, out_align = _alignments(x, y)
    kh, kw = extents_of_kernel(fir.kernel)
    numbers = images, channels // alignment(channels), in_h, in_w // in_align, out_h, out_w // out_align, tiling.turns
    launch_kernel(
        _strip_kernel, tiling.grid, (x, fir.kernel, y), numbers,
        UP_Y=fir.up[0], UP_X=fir.up[1], DOWN_Y=fir.down[0], DOWN_X=fir.down[1], PAD_Y=fir.pad[0], PAD_X=fir.pad[1],
        KH=kh, KW=kw, FLIP=fir.flip, OUTER=fir.is_vector, GAIN=fir.gain,
        CHANNELS_LAST=channels_last, COMPUTE=triton_compute_dtype(x.dtype), CHANNEL_ALIGN=alignment(channels),
        IN_ALIGN=in_align, OUT_ALIGN=out_align, WIDE=math.gcd(in_align, tiling.cols * fir.down[1] // fir.up[1]),
        ROWS=tiling.rows, COLS=tiling.cols, **tiling.constants,
    )  # fmt: skip


def _launch_bands(x: Tensor, y: Tensor, fir: _Resampling, tiling: BandTiling) -> None:
    images, channels = _geometry(x)
    kernel, (kh, kw) = fir.kernel, extents_of_kernel(fir.kernel)
    (in_h, in_w), (out_h, out_w) = x.shape[2:], y.shape[2:]
    if fir.is_separable:
        row_taps = kernel if kernel.dim() == 1 or kw == 1 else None
        taps = kernel if kernel.dim() == 1 or kh == 1 else None
    else:
        row_taps, taps = None, kernel
    in_align, out_align = _alignments(x, y)
    numbers = (
        images, channels // alignment(channels), in_h, in_w // in_align, out_h, out_w // out_align, *fir.up, *fir.down,
        *fir.origins, kh, kw, tiling.step // tiling.align, -1 if fir.flip else 1, fir.gain,
    )  # fmt: skip
    launch_kernel(
        _band_kernel, (tiling.programs(images, channels, out_h, out_w, fir.up[0]),), (x, row_taps, taps, y), numbers,
        SEPARABLE=fir.is_separable, CHANNELS_LAST=not x.is_contiguous(), COMPUTE=triton_compute_dtype(x.dtype),
        PRECISION=dot_precision(), CHANNEL_ALIGN=alignment(channels), IN_ALIGN=in_align, OUT_ALIGN=out_align,
        STEP_ALIGN=tiling.align, ROWS=tiling.rows, **tiling.constants,
        # A pipeline would copy the tiles of several turns to shared memory.
        num_stages=1,
    )  # fmt: skip


def _launch_loop(x: Tensor, y: Tensor, fir: _Resampling) -> None:
    images, channels = _geometry(x)
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
