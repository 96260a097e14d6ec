"""Minibatch standard deviation (Karras et al. 2018, section 3; groups as in the code of Karras et al. 2019).

Over the G members g of each group m of samples, feature by feature, with biased variance,

    sigma[m, j] = sqrt(var_g(x[g, m, j]) + 1e-8),    s[m, f] = mean of sigma[m, j] over the J features of f,

where f counts the sets of neighboring channels, one per appended channel: y is x with s[m, f] in all
pixels of channel C + f. With xh = (x - mean_g(x)) / sigma and a[m, f] the sum of dy over the members and pixels of that
channel, the first gradient is

    dx = dy[:, :C] + a / (G J) * xh

and for a cotangent v of dx the gradients of <dx, v> are

    ddy[:, :C] = v,    ddy[:, C + f] = mean over the J features of mean_g(v * xh),
    ddx = a / (G J sigma) * (v - mean_g(v) - xh * mean_g(v * xh)).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order, refuse_third_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_feature_map
from fastgan_kernels.launch import decided_once, launch_kernel
from fastgan_kernels.layout import dense, empty_dense, matrix_of
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.reduction import add, sum_partials
from fastgan_kernels.tiling import alignment, group_tiling

_EPS = tl.constexpr(1e-8)

# The kernels take a sample of x as a matrix [rows, SETS * cols]; a sample of y has more columns. Contiguous, it has one
# row, of C * pixels or (C + SETS) * pixels; channels-last, it has one row per pixel. The appended channels are such a
# matrix too, at an offset inside y.


class Place(NamedTuple):
    """In kernels, where a program's tile lies: its group of how many, offsets within a sample of x and of y, which
    elements exist, and the lengths of the two samples."""

    group: Any
    groups: Any
    in_x: Any
    in_y: Any
    exists: Any
    length: Any
    y_length: Any


@triton.jit
def _place(
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    SETS: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The place of this program. Widths are products with constants, so the compiler knows how rows are aligned."""
    cols = col_groups.to(tl.int64) * ALIGN
    y_cols = y_groups.to(tl.int64) * Y_ALIGN
    group_and_set = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    row = (tile // col_tiles).to(tl.int64) * BLOCK[1] + tl.arange(0, BLOCK[1])
    col = (tile % col_tiles).to(tl.int64) * BLOCK[2] + tl.arange(0, BLOCK[2])
    exists = (row < rows)[:, None] & (col < cols)[None, :]
    col_of_sample = group_and_set % SETS * cols + col
    in_x = row[:, None] * (cols * SETS) + col_of_sample[None, :]
    in_y = row[:, None] * y_cols + col_of_sample[None, :]
    return Place(group_and_set // SETS, groups, in_x, in_y, exists, cols * SETS * rows, y_cols * rows)


@triton.jit
def _members(start, place, MEMBERS: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets in x and in y of the members of a group from ``start`` on, and which elements exist."""
    member = start + tl.arange(0, BLOCK[0])
    sample = (member.to(tl.int64) * place.groups + place.group)[:, None, None]
    mask = (member < MEMBERS)[:, None, None] & place.exists[None, :, :]
    return sample * place.length + place.in_x[None, :, :], sample * place.y_length + place.in_y[None, :, :], mask


# A program that can hold all members reads them once and keeps them. Otherwise they are read once for the mean, again
# for sums that need the mean, and again for gradients. That is a few kilobytes per program, so only the first read
# comes from memory, the others from L2. To the compiler a loop that runs once is none.


@triton.jit
def _read(
    kept, ptr, copy_ptr, start, place,
    MEMBERS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr, LIKE_Y: tl.constexpr = False,
):  # fmt: skip
    """``kept``, or the members from ``start`` on of a tensor like x or y, copied into one like y if there is one."""
    if kept is not None:
        return kept
    else:
        in_x, in_y, mask = _members(start, place, MEMBERS, BLOCK)
        values = tl.load(ptr + (in_y if LIKE_Y else in_x), mask=mask, other=0.0)
        if copy_ptr is not None:
            tl.store(copy_ptr + in_y, values, mask=mask)
        return values.to(COMPUTE)


@triton.jit
def _moments(x, x_ptr, y_ptr, place, MEMBERS: tl.constexpr, COMPUTE: tl.constexpr, BLOCK: tl.constexpr):
    """The mean, and the variance plus epsilon, of x, which is copied to y if there is one."""
    count = tl.full((), MEMBERS, COMPUTE)
    total = tl.zeros(BLOCK, COMPUTE)
    squares = total
    for start in range(0, MEMBERS, BLOCK[0]):
        total = add(total, _read(x, x_ptr, y_ptr, start, place, MEMBERS, COMPUTE, BLOCK), x is not None)
    mean = tl.sum(total, axis=0) / count
    for start in range(0, MEMBERS, BLOCK[0]):
        _, _, mask = _members(start, place, MEMBERS, BLOCK)
        z = _read(x, x_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK)
        deviation = tl.where(mask, z - mean[None, :, :], 0.0)
        squares = add(squares, deviation * deviation, x is not None)
    return mean, tl.sum(squares, axis=0) / count + tl.full((), _EPS, COMPUTE)


@triton.jit
def _store_sum(partials_ptr, value, exists):
    """The sum over the features of this program's tile."""
    tl.store(partials_ptr + tl.program_id(0), tl.sum(tl.where(exists, value, 0.0)))


@triton.jit(do_not_specialize=["groups", "rows", "col_groups", "y_groups", "tiles", "col_tiles"])
def _forward_kernel(
    x_ptr, y_ptr, partials_ptr,
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    MEMBERS: tl.constexpr, SETS: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Copies x into y, and sums sigma over each tile."""
    BLOCK: tl.constexpr = (BLOCK_MEMBERS, BLOCK_ROWS, BLOCK_COLS)
    place = _place(groups, rows, col_groups, y_groups, tiles, col_tiles, SETS, ALIGN, Y_ALIGN, BLOCK)
    x = None
    if MEMBERS <= BLOCK_MEMBERS:
        x = _read(None, x_ptr, y_ptr, 0, place, MEMBERS, COMPUTE, BLOCK)
    _, variance = _moments(x, x_ptr, y_ptr, place, MEMBERS, COMPUTE, BLOCK)
    _store_sum(partials_ptr, tl.sqrt(variance), place.exists)


@triton.jit(
    do_not_specialize=[
        "partials", "features", "start_groups", "groups", "rows", "col_groups", "y_groups", "tiles", "col_tiles",
    ]
)  # fmt: skip
def _fill_kernel(
    partials_ptr, y_ptr, partials, features, start_groups,
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    MEMBERS: tl.constexpr, SETS: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_PARTIALS: tl.constexpr,
):  # fmt: skip
    """Fills the appended channel of each group and set with the sum of its ``partials`` over ``features``."""
    total = tl.full([BLOCK_PARTIALS], 0.0, COMPUTE)
    first = (tl.program_id(0) // tiles).to(tl.int64) * partials
    for start in range(0, partials, BLOCK_PARTIALS):
        partial = start + tl.arange(0, BLOCK_PARTIALS)
        total += tl.load(partials_ptr + (first + partial), mask=partial < partials, other=0.0)
    value = tl.sum(total, axis=0) / features.to(COMPUTE)
    BLOCK: tl.constexpr = (BLOCK_MEMBERS, BLOCK_ROWS, BLOCK_COLS)
    place = _place(groups, rows, col_groups, y_groups, tiles, col_tiles, SETS, ALIGN, Y_ALIGN, BLOCK)
    y_ptr += start_groups.to(tl.int64) * ALIGN
    filled = tl.zeros(BLOCK, COMPUTE) + value
    for start in range(0, MEMBERS, BLOCK_MEMBERS):
        _, in_y, mask = _members(start, place, MEMBERS, BLOCK)
        tl.store(y_ptr + in_y, filled.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["start_groups", "groups", "rows", "col_groups", "y_groups", "tiles", "col_tiles"])
def _sums_kernel(
    dy_ptr, sums_ptr, start_groups,
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    MEMBERS: tl.constexpr, SETS: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Sums of dy over the members and the pixels of a tile of the appended channels."""
    BLOCK: tl.constexpr = (BLOCK_MEMBERS, BLOCK_ROWS, BLOCK_COLS)
    place = _place(groups, rows, col_groups, y_groups, tiles, col_tiles, SETS, ALIGN, Y_ALIGN, BLOCK)
    dy_ptr += start_groups.to(tl.int64) * ALIGN
    total = tl.zeros(BLOCK, COMPUTE)
    for start in range(0, MEMBERS, BLOCK_MEMBERS):
        _, in_y, mask = _members(start, place, MEMBERS, BLOCK)
        total += tl.load(dy_ptr + in_y, mask=mask, other=0.0).to(COMPUTE)
    _store_sum(sums_ptr, tl.sum(total, axis=0), place.exists)


@triton.jit(do_not_specialize=["features", "groups", "rows", "col_groups", "y_groups", "tiles", "col_tiles"])
def _backward_kernel(
    dy_ptr, x_ptr, sums_ptr, dx_ptr, features,
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    MEMBERS: tl.constexpr, SETS: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """dx = dy[:, :C] + a / (G J) * xh."""
    BLOCK: tl.constexpr = (BLOCK_MEMBERS, BLOCK_ROWS, BLOCK_COLS)
    place = _place(groups, rows, col_groups, y_groups, tiles, col_tiles, SETS, ALIGN, Y_ALIGN, BLOCK)
    factor = tl.load(sums_ptr + tl.program_id(0) // tiles) / (features.to(COMPUTE) * MEMBERS)
    x, dy = None, None
    if MEMBERS <= BLOCK_MEMBERS:
        x = _read(None, x_ptr, None, 0, place, MEMBERS, COMPUTE, BLOCK)
        dy = _read(None, dy_ptr, None, 0, place, MEMBERS, COMPUTE, BLOCK, LIKE_Y=True)
    mean, variance = _moments(x, x_ptr, None, place, MEMBERS, COMPUTE, BLOCK)
    factors = factor * tl.rsqrt(variance)
    for start in range(0, MEMBERS, BLOCK_MEMBERS):
        in_x, _, mask = _members(start, place, MEMBERS, BLOCK)
        z = _read(x, x_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK)
        g = _read(dy, dy_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK, LIKE_Y=True)
        dx = g + (z - mean[None, :, :]) * factors[None, :, :]
        tl.store(dx_ptr + in_x, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["features", "groups", "rows", "col_groups", "y_groups", "tiles", "col_tiles"])
def _double_backward_kernel(
    v_ptr, x_ptr, sums_ptr, ddy_ptr, partials_ptr, ddx_ptr, features,
    groups, rows, col_groups, y_groups, tiles, col_tiles,
    MEMBERS: tl.constexpr, SETS: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BLOCK_MEMBERS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """ddy without its appended channels, the sums of mean_g(v * xh) over each tile, and ddx.

    Where ddy is not needed it is None, and so are the sums.
    """
    BLOCK: tl.constexpr = (BLOCK_MEMBERS, BLOCK_ROWS, BLOCK_COLS)
    place = _place(groups, rows, col_groups, y_groups, tiles, col_tiles, SETS, ALIGN, Y_ALIGN, BLOCK)
    factor = tl.load(sums_ptr + tl.program_id(0) // tiles) / (features.to(COMPUTE) * MEMBERS)
    count = tl.full((), MEMBERS, COMPUTE)
    x, v = None, None
    if MEMBERS <= BLOCK_MEMBERS:
        x = _read(None, x_ptr, None, 0, place, MEMBERS, COMPUTE, BLOCK)
        v = _read(None, v_ptr, ddy_ptr, 0, place, MEMBERS, COMPUTE, BLOCK)
    mean, variance = _moments(x, x_ptr, None, place, MEMBERS, COMPUTE, BLOCK)
    rstd = tl.rsqrt(variance)
    sum_v = tl.zeros(BLOCK, COMPUTE)
    sum_vxh = sum_v
    for start in range(0, MEMBERS, BLOCK_MEMBERS):
        z = _read(x, x_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK)
        w = _read(v, v_ptr, ddy_ptr, start, place, MEMBERS, COMPUTE, BLOCK)
        sum_v = add(sum_v, w, v is not None)
        sum_vxh = add(sum_vxh, w * ((z - mean[None, :, :]) * rstd[None, :, :]), v is not None)
    mean_vxh = tl.sum(sum_vxh, axis=0) / count
    mean_v = tl.sum(sum_v, axis=0) / count
    for start in range(0, MEMBERS, BLOCK_MEMBERS):
        in_x, _, mask = _members(start, place, MEMBERS, BLOCK)
        z = _read(x, x_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK)
        w = _read(v, v_ptr, None, start, place, MEMBERS, COMPUTE, BLOCK)
        xh = (z - mean[None, :, :]) * rstd[None, :, :]
        ddx = (w - mean_v[None, :, :] - xh * mean_vxh[None, :, :]) * (factor * rstd)[None, :, :]
        tl.store(ddx_ptr + in_x, ddx.to(ddx_ptr.dtype.element_ty), mask=mask)
    if partials_ptr is not None:
        _store_sum(partials_ptr, mean_vxh, place.exists)


class _Region(NamedTuple):
    """A part of every sample, x or the appended channels: what the kernels that pass over it take."""

    programs: int
    tiles: int
    extents: tuple[int, ...]
    constants: dict[str, Any]

    def launch(self, kernel: Any, tensors: Sequence[Tensor | None], *numbers: int, **constants: Any) -> None:
        launch_kernel(kernel, (self.programs,), tensors, (*numbers, *self.extents), **self.constants, **constants)

    def new_partials(self, x: Tensor) -> Tensor:
        """Memory for one number per program: [1, groups * sets, tiles]."""
        return x.new_empty(1, self.programs // self.tiles, self.tiles, dtype=compute_dtype(x.dtype))


class _Regions(NamedTuple):
    """``features`` are those of a sample and set (J above); in y, the appended channels begin at ``start_groups``."""

    x: _Region
    appended: _Region
    features: int
    start_groups: int

    def fill(self, y: Tensor, partials: Tensor) -> None:
        """Fills the appended channels with the sums of ``partials`` over the features."""
        if self.appended.tiles > 1:
            partials = sum_partials(partials)[None, :, None]
        count = partials.shape[2]
        self.appended.launch(
            _fill_kernel, (partials, y), count, self.features, self.start_groups,
            BLOCK_PARTIALS=1024 if count > 64 else 64,
        )  # fmt: skip


@decided_once
def _regions_of(shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, group_size: int, sets: int) -> _Regions:
    """Those of a dense x that is not empty."""
    samples, channels = shape[:2]
    pixels = math.prod(shape[2:])
    members = reference.group_of(samples, group_size)
    groups = samples // members
    rows, row_pixels = (pixels, 1) if matrix_of(shape, is_contiguous).channels_last else (1, pixels)
    y_cols = (channels + sets) * row_pixels

    def region(of_channels: int, **options: int) -> _Region:
        cols = of_channels // sets * row_pixels
        tiling = group_tiling(groups * sets, members, rows, cols, dtype.itemsize, **options)
        align, y_align = alignment(cols), alignment(y_cols)
        return _Region(
            groups * sets * tiling.tiles, tiling.tiles,
            (groups, rows, cols // align, y_cols // y_align, tiling.tiles, tiling.col_tiles),
            {"MEMBERS": members, "SETS": sets, "COMPUTE": triton_compute_dtype(dtype), "ALIGN": align,
             "Y_ALIGN": y_align, **tiling.constants},
        )  # fmt: skip

    # One program fills the channel of a group if it can, since each one sums all partials of the group.
    of_x, appended = region(channels), region(sets, finest=4096)
    return _Regions(of_x, appended, channels // sets * pixels, channels * row_pixels // appended.constants["ALIGN"])


def _launch_forward(x: Tensor, group_size: int, sets: int) -> Tensor:
    x = dense(x)
    y = empty_dense(x, channels=x.shape[1] + sets)
    if x.numel() == 0:
        return y.fill_(math.nan)  # the mean of no features
    regions = _regions_of(x.shape, x.is_contiguous(), x.dtype, group_size, sets)
    partials = regions.x.new_partials(x)
    regions.x.launch(_forward_kernel, (x, y, partials))
    regions.fill(y, partials)
    return y


def _new_gradients(x: Tensor, group_size: int, sets: int) -> tuple[Tensor, Tensor]:
    groups = x.shape[0] // reference.group_of(x.shape[0], group_size)
    return empty_dense(x), x.new_empty(groups * sets, dtype=compute_dtype(x.dtype))


def _launch_backward(dy: Tensor, x: Tensor, group_size: int, sets: int) -> tuple[Tensor, Tensor]:
    """dx, and the sums a of dy's appended channels, [groups * sets]."""
    x = dense(x)
    if x.numel() == 0:
        dx, sums = _new_gradients(x, group_size, sets)
        return dx, sums.zero_()
    dy, dx = dense(dy, like=x), empty_dense(x)
    regions = _regions_of(x.shape, x.is_contiguous(), x.dtype, group_size, sets)
    partials = regions.appended.new_partials(x)
    regions.appended.launch(_sums_kernel, (dy, partials), regions.start_groups)
    sums = partials.flatten() if regions.appended.tiles == 1 else sum_partials(partials)
    regions.x.launch(_backward_kernel, (dy, x, sums, dx), regions.features)
    return dx, sums


def _new_second_gradients(x: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    return empty_dense(x, channels=x.shape[1] + sets), empty_dense(x)


def _launch_double_backward(
    v: Tensor, x: Tensor, sums: Tensor, group_size: int, sets: int, needs: list[bool]
) -> tuple[Tensor | None, Tensor]:
    """The gradients in dy, where needed, and in x, which is always needed: dx is computed only for x."""
    x = dense(x)
    ddy, ddx = _new_second_gradients(x, sets)
    ddy = ddy if needs[0] else None
    if x.numel() == 0:
        return None if ddy is None else ddy.zero_(), ddx
    regions = _regions_of(x.shape, x.is_contiguous(), x.dtype, group_size, sets)
    partials = regions.x.new_partials(x) if needs[0] else None
    regions.x.launch(_double_backward_kernel, (dense(v, like=x), x, sums, ddy, partials, ddx), regions.features)
    if needs[0]:
        regions.fill(ddy, partials)
    return ddy, ddx


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    x, *ctx.settings = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, dy: Tensor) -> Tensor:
    return _minibatch_stddev_backward(dy, *ctx.saved_tensors, *ctx.settings)[0]


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, x, *ctx.settings = inputs
    # The sums stay differentiable, though their gradient is never needed, so that a third order through dy reaches the
    # op that refuses it.
    ctx.save_for_backward(x, output[1])


def _double_backward(ctx: Any, v: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if v is None:
        return ()
    needs_dy = ctx.needs_input_grad[0]
    return _minibatch_stddev_double_backward(v, *ctx.saved_tensors, *ctx.settings, [needs_dy, True])


_minibatch_stddev_double_backward = DifferentiableOp(
    "minibatch_stddev_double_backward(Tensor v, Tensor x, Tensor sums, int group_size, int num_channels, bool[] needs)"
    " -> (Tensor, Tensor)",
    launch=_launch_double_backward,
    fake=lambda v, x, sums, group_size, num_channels, needs: _new_second_gradients(x, num_channels),
    backward=refuse_third_order("minibatch_stddev"),
    is_gradient=True,
)

_minibatch_stddev_backward = DifferentiableOp(
    "minibatch_stddev_backward(Tensor dy, Tensor x, int group_size, int num_channels) -> (Tensor, Tensor)",
    launch=_launch_backward,
    fake=lambda dy, *arguments: _new_gradients(*arguments),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_minibatch_stddev = DifferentiableOp(
    "minibatch_stddev(Tensor x, int group_size, int num_channels) -> Tensor",
    launch=_launch_forward,
    fake=lambda x, group_size, num_channels: empty_dense(x, channels=x.shape[1] + num_channels),
    setup_context=_save_for_backward,
    backward=_backward,
)


def minibatch_stddev(x: Tensor, *, group_size: int = 4, num_channels: int = 1) -> Tensor:
    """Appends a channel that measures how much the samples of a group differ (Karras et al. 2018, section 3).

    The standard deviation of every feature over the members of a group, with biased variance and epsilon 1e-8, is
    averaged over the pixels and channels, or over each of ``num_channels`` sets of neighboring channels. The members
    of a group are the samples i, i + N/G, i + 2N/G, ...

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        group_size: at least 1. G, the members of a group, is the largest divisor of N up to it: with 4, groups of 4 at
            N = 8, of 3 at 6, of 2 at 10. If N has no divisor from 2 to ``group_size``, as a larger prime number, every
            sample is a group of its own: its deviation is 0, and the appended value is the constant 1e-4, the root of
            epsilon, which says nothing of the batch. N is the batch size of this call, that of a micro-batch or of one
            process: choose a multiple of ``group_size``.
        num_channels: how many averages are appended; at least 1, and C is a multiple of it.

    Returns:
        [N, C + num_channels, *spatial] in the type and layout of ``x``. Differentiable twice, both orders fused; a
        third raises RuntimeError. Saves x.

    Raises:
        ValueError: for a shape or value other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("minibatch_stddev", x)
    if group_size < 1:
        raise ValueError(f"minibatch_stddev: group_size is {group_size}, expected at least 1")
    if num_channels < 1 or x.shape[1] % num_channels:
        raise ValueError(
            f"minibatch_stddev: num_channels is {num_channels}, expected a divisor of the {x.shape[1]} channels of x"
        )
    if not runs_triton(x):
        return reference.minibatch_stddev(guard_second_order(x), group_size=group_size, num_channels=num_channels)
    return _minibatch_stddev(x, group_size, num_channels)
