"""Leaky ReLU between two resamplings, so that it makes no aliases (Karras et al. 2021, section 3.2, StyleGAN3).

    y = down_fd(clamp(gain * lrelu(up_fu(x + bias))))

A program computes a tile of y. It filters the tile of x below it to a tile u of the upsampled image, by products with
band matrices (see upfirdn2d), applies the activation, and filters again, 32 columns of u after the other. u is never in
memory. The derivative needs two bits per element of u, packed by four: whether it was negative, whether it was clamped.
(Computing u again would read x once more, with the pixels around each tile; at a factor of 2 the bits are one byte per
pixel of x.)

Given these bits the op is linear, and its transpose is the same kernel with the kernels exchanged and turned around:
the gradient is D(dy, 0) with D(g, b) = (dx, sums of dx), whose own transpose is the forward pass of (g + b) under the
bits. So gradients of every order are this kernel.

The kernel takes contiguous planes in types up to float32, and filters that fit its tiles, on NVIDIA's GPUs; for AMD's
the compiler spills. Anything else is composed of upfirdn2d and bias_act.
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
from fastgan_kernels.checks import check_activation, check_fir_kernel, check_images, check_operand, factors, paddings
from fastgan_kernels.launch import launch_kernel
from fastgan_kernels.layout import contiguous
from fastgan_kernels.ops.bias_act import bias_act
from fastgan_kernels.ops.upfirdn2d import band, extents_of_kernel, upfirdn2d
from fastgan_kernels.precision import compute_dtype, dot_precision, runs_on_amd
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import FilteredTiling, cdiv, filtered_tiling, filtered_turns


@triton.jit
def _pixels(x_ptr, bias_ptr, plane, channels, rows, cols, end, height, width):
    """Pixels of a plane with their bias; 0 outside of the plane and from column ``end`` on."""
    exists = ((rows >= 0) & (rows < height))[:, None] & ((cols >= 0) & (cols < width) & (cols < end))[None, :]
    x = tl.load(x_ptr + (rows[:, None] * width + cols[None, :]), mask=exists, other=0.0).to(tl.float32)
    if bias_ptr is not None:
        x = tl.where(exists, x + tl.load(bias_ptr + plane % channels).to(tl.float32), 0.0)
    return x


@triton.jit
def _first_column(mid_x, pad, up, WIDE: tl.constexpr):
    """The first column of x that column ``mid_x`` of the middle meets, rounded down; the shift makes it positive."""
    return (mid_x - pad + up - 1 + 1024 * up * WIDE) // (up * WIDE) * WIDE - 1024 * WIDE


@triton.jit
def _in_direction(tap, taps, direction):
    """The index of a tap in a kernel as it is (1), or turned around (-1)."""
    return (1 - direction) // 2 * (taps - 1) + direction * tap


@triton.jit(
    do_not_specialize=[
        "channels", "in_h", "in_groups", "mid_h", "mid_w", "out_h", "out_groups", "ah", "aw", "bh", "bw", "up_y",
        "up_x", "down_y", "down_x", "pad_ay", "pad_ax", "pad_by", "pad_bx", "tile_y", "tile_groups", "mid_step",
        "turns", "direction", "scale", "slope", "clamp",
    ]
)  # fmt: skip
def _kernel(
    x_ptr, bias_ptr, a_ptr, b_ptr, signs_ptr, y_ptr, partials_ptr,
    channels, in_h, in_groups, mid_h, mid_w, out_h, out_groups, ah, aw, bh, bw, up_y, up_x, down_y, down_x,
    pad_ay, pad_ax, pad_by, pad_bx, tile_y, tile_groups, mid_step, turns, direction, scale, slope, clamp,
    LINEAR: tl.constexpr, CLAMPS: tl.constexpr, SEPARABLE_A: tl.constexpr,
    SEPARABLE_B: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr, IN_ALIGN: tl.constexpr,
    OUT_ALIGN: tl.constexpr, IN_X: tl.constexpr, MID_Y: tl.constexpr, MID_X: tl.constexpr, OUT_Y: tl.constexpr,
    OUT_X: tl.constexpr,
):  # fmt: skip
    """``turns`` tiles of y, one below the other: kernel a upsamples to a tile u of the middle, and b downsamples it.

    With LINEAR, u is multiplied by the derivative that ``signs`` holds. Otherwise the activation is applied, and its
    derivative is written to ``signs`` unless that is None. ``scale`` includes the gains of both.
    """
    in_w, out_w, tile_x = in_groups * IN_ALIGN, out_groups * OUT_ALIGN, tile_groups * WIDE
    col_tiles = tl.cdiv(out_w, tile_x)
    row_tiles = tl.cdiv(out_h, tile_y)
    strips = tl.cdiv(row_tiles, turns)
    pid = tl.program_id(0)
    col_tile = pid % col_tiles
    strip = pid // col_tiles % strips
    plane = pid // (col_tiles * strips)
    image = plane.to(tl.int64)
    x_ptr += image * in_h * in_w
    if y_ptr is not None:
        y_ptr += image * out_h * out_w
    sign_pitch = (mid_w + 3) // 4
    if signs_ptr is not None:
        signs_ptr += image * mid_h * sign_pitch

    # The columns of the middle that the tile needs are computed in parts of ``mid_step``. Starts are rounded down: in
    # the middle to a byte of signs, in x to the start of a wide access.
    out_x = col_tile * tile_x
    first_mid = ((out_x * down_x - pad_bx + 4096) // 4 - 1024) * 4
    mid_end = tl.minimum((out_x + tile_x - 1) * down_x - pad_bx + bw, mid_w)
    # The next tile writes the signs from this byte on.
    sign_end = (first_mid + tile_x * down_x) // 4
    if out_x + tile_x >= out_w:
        mid_end, sign_end = mid_w, sign_pitch
    out_col = out_x + tl.arange(0, OUT_X)
    # These matrices are the same in every part and turn, and stay in shared memory.
    if SEPARABLE_A:
        in_x = _first_column(first_mid, pad_ax, up_x, WIDE)
        columns = band(a_ptr, in_x, first_mid, up_x, 1, pad_ax, aw, direction, tl.float32, IN_X, MID_X, False)
    if SEPARABLE_B:
        rows_b = band(b_ptr, -pad_by, 0, 1, down_y, pad_by, bh, direction, tl.float32, MID_Y, OUT_Y, True)
    for turn in tl.range(turns, disable_licm=True):
        out_y = (strip * turns + turn) * tile_y
        mid_y = out_y * down_y - pad_by
        mid_row = mid_y + tl.arange(0, MID_Y)
        # The first row of x that each row of the middle meets, and its tap; the shift makes the quotient positive.
        first = (mid_row - pad_ay + up_y - 1 + 1024 * up_y) // up_y - 1024
        tap = up_y * first - mid_row + pad_ay
        y = tl.zeros([OUT_Y, OUT_X], tl.float32)
        for mid_x in tl.range(first_mid, mid_end, mid_step, disable_licm=True):
            part_end = tl.minimum(mid_x + mid_step, mid_w)
            mid_col = mid_x + tl.arange(0, MID_X)
            in_x = _first_column(mid_x, pad_ax, up_x, WIDE)
            # One past the last column of x that the part needs, rounded up.
            in_end = tl.minimum(part_end, mid_end) - 1 - pad_ax + aw - 1
            in_end = ((in_end + 1024 * up_x * WIDE) // (up_x * WIDE) - 1023) * WIDE
            in_col = in_x + tl.arange(0, IN_X)
            if SEPARABLE_A:
                total = tl.zeros([MID_Y, IN_X], tl.float32)
                for m in range((ah + up_y - 1) // up_y):
                    x = _pixels(x_ptr, bias_ptr, plane, channels, first + m, in_col, in_end, in_h, in_w)
                    if a_ptr is None:
                        weight = tl.where(tap == 0, 1.0, 0.0)
                    else:
                        a = tap + m * up_y
                        weight = tl.load(a_ptr + _in_direction(a, ah, direction), mask=a < ah, other=0.0).to(tl.float32)
                    total += weight[:, None] * x
                u = tl.dot(total, columns, input_precision=PRECISION)
            else:
                u = tl.zeros([MID_Y, MID_X], tl.float32)
                for row in tl.range(ah, disable_licm=True):
                    # A row of the kernel meets one row in up_y.
                    rows = tl.where((row - tap) % up_y == 0, first + (row - tap) // up_y, -1)
                    rows = tl.minimum(tl.maximum(rows, -1), in_h).to(tl.int64)
                    x = _pixels(x_ptr, bias_ptr, plane, channels, rows, in_col, in_end, in_h, in_w)
                    line = a_ptr + _in_direction(row, ah, direction) * aw
                    columns = band(line, in_x, mid_x, up_x, 1, pad_ax, aw, direction, tl.float32, IN_X, MID_X, False)
                    u = tl.dot(x, columns, u, input_precision=PRECISION)
            u *= scale
            if LINEAR:
                # Outside of the middle any sign will do, since the value is multiplied by 0.
                row = tl.minimum(tl.maximum(mid_row, 0), mid_h - 1)
                byte = tl.minimum(tl.maximum(mid_col // 4, 0), sign_pitch - 1)
                byte = row[:, None] * sign_pitch + byte[None, :]
                sign = tl.load(signs_ptr + byte).to(tl.int32) >> (mid_col % 4 * 2)[None, :]
                u *= tl.where((sign & 2) != 0, 0.0, tl.where((sign & 1) != 0, slope, 1.0))
            else:
                sign = tl.where(u > 0, 0, 1)
                u = tl.where(u > 0, u, u * slope)
                if CLAMPS:
                    clamped = tl.abs(u) >= clamp
                    sign += tl.where(clamped, 2, 0)
                    u = tl.where(clamped, tl.where(u > 0, clamp, -clamp), u)
                if signs_ptr is not None:
                    packed = tl.reshape(sign << (mid_col % 4 * 2)[None, :], [MID_Y, MID_X // 4, 4])
                    packed = tl.sum(packed, axis=2)
                    group = mid_x // 4 + tl.arange(0, MID_X // 4)
                    # Only the rows up to the next tile's first one, which that tile writes itself.
                    sign_bottom = tl.where(out_y + tile_y < out_h, mid_y + tile_y * down_y, mid_h)
                    own_y = (mid_row >= 0) & (mid_row < sign_bottom)
                    own_x = (group >= 0) & (group < tl.minimum(sign_end, (mid_x + mid_step) // 4))
                    place = mid_row[:, None] * sign_pitch + group[None, :]
                    tl.store(signs_ptr + place, packed.to(tl.uint8), mask=own_y[:, None] & own_x[None, :])
            in_middle = ((mid_row >= 0) & (mid_row < mid_h))[:, None] & ((mid_col >= 0) & (mid_col < part_end))[None, :]
            u = tl.where(in_middle, u, 0.0)
            if SEPARABLE_B:
                columns_b = band(b_ptr, mid_x, out_x, 1, down_x, pad_bx, bw, direction, tl.float32, MID_X, OUT_X, False)
                y = tl.dot(tl.dot(rows_b, u, input_precision=PRECISION), columns_b, y, input_precision=PRECISION)
            else:
                for b in tl.range(bh, disable_licm=True):
                    line = b_ptr + _in_direction(b, bh, direction) * bw
                    columns_b = band(
                        line, mid_x, out_x, 1, down_x, pad_bx, bw, direction, tl.float32, MID_X, OUT_X, False
                    )
                    # The rows that row b of the kernel meets, as a band matrix of a kernel with its only tap there.
                    rows_b = band(
                        None, mid_y, out_y, 1, down_y, pad_by - b, 1, direction, tl.float32, MID_Y, OUT_Y, True
                    )
                    met = tl.dot(rows_b, u, input_precision=PRECISION)
                    y = tl.dot(met, columns_b, y, input_precision=PRECISION)
        out_row = out_y + tl.arange(0, OUT_Y)
        writes = ((out_row < out_y + tile_y) & (out_row < out_h))[:, None]
        writes &= ((out_col < out_x + tile_x) & (out_col < out_w))[None, :]
        if y_ptr is not None:
            place = out_row[:, None] * out_w + out_col[None, :]
            tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=writes)
        if partials_ptr is not None:
            total_y = tl.sum(tl.sum(tl.where(writes, y, 0.0), axis=1), axis=0)
            tl.store(partials_ptr + (pid * turns + turn), total_y)


class _Filters(NamedTuple):
    """Kernel ``a`` with factor ``up`` and ``pad_a`` zeros before the image, then ``b`` with ``down`` and ``pad_b``.

    Factors and paddings are (y, x).
    """

    a: Tensor | None
    b: Tensor | None
    up: Sequence[int]
    down: Sequence[int]
    pad_a: Sequence[int]
    pad_b: Sequence[int]
    flip: bool

    def transposed(self) -> "_Filters":
        of_a, of_b = extents_of_kernel(self.a), extents_of_kernel(self.b)
        pad_a = [k - 1 - p for k, p in zip(of_b, self.pad_b, strict=True)]
        pad_b = [k - 1 - p for k, p in zip(of_a, self.pad_a, strict=True)]
        return _Filters(self.b, self.a, self.down, self.up, pad_a, pad_b, not self.flip)

    def tiling(self, size: Sequence[int], element_size: int) -> FilteredTiling | None:
        # The kernel shifts numbers by about a thousand, so that its divisions have positive operands.
        if max(map(abs, (*self.pad_a, *self.pad_b))) > 500:
            return None
        a, b = extents_of_kernel(self.a), extents_of_kernel(self.b)
        return filtered_tiling(tuple(size), element_size, a, b, up=tuple(self.up), down=tuple(self.down))


_FILTERS = "Tensor? a, Tensor? b, int[] up, int[] down, int[] pad_a, int[] pad_b, bool flip"


def _run(
    x: Tensor, bias: Tensor | None, filters: _Filters, signs: Tensor | None, mid: Sequence[int], size: Sequence[int],
    scale: float, slope: float, clamp: float | None = None, *, linear: bool, needs: Sequence[bool] = (True, False),
) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
    """One launch; returns y [N, C, *size] and the sums of its channels in float32, each where needed."""
    x, (needs_y, needs_sums) = x.contiguous(), needs
    n, c = x.shape[:2]
    y = x.new_empty(n, c, *size) if needs_y else None
    if n * c * math.prod(size) == 0:
        return y, x.new_zeros(c, dtype=torch.float32) if needs_sums else None
    tiling = filters.tiling(size, x.element_size())
    wide = 16 // x.element_size()
    in_align, out_align = math.gcd(x.shape[3], wide), math.gcd(size[1], wide)
    rows, cols = cdiv(size[0], tiling.tile_y), cdiv(size[1], tiling.tile_x)
    turns = filtered_turns(n * c * cols, rows)
    programs = cdiv(rows, turns) * cols
    partials = x.new_empty(n, c, programs * turns, dtype=torch.float32) if needs_sums else None
    a, b = contiguous(filters.a), contiguous(filters.b)
    numbers = (
        c, x.shape[2], x.shape[3] // in_align, *mid, size[0], size[1] // out_align,
        *extents_of_kernel(a), *extents_of_kernel(b), *filters.up, *filters.down, *filters.pad_a, *filters.pad_b,
        tiling.tile_y, tiling.tile_x // wide, tiling.mid_step, turns, -1 if filters.flip else 1,
        scale, slope, 0.0 if clamp is None else clamp,
    )  # fmt: skip
    launch_kernel(
        _kernel, (n * c * programs,), (x, contiguous(bias), a, b, signs, y, partials), numbers,
        LINEAR=linear, CLAMPS=clamp is not None, SEPARABLE_A=a is None or a.dim() == 1,
        SEPARABLE_B=b is None or b.dim() == 1, PRECISION=dot_precision(), WIDE=wide, IN_ALIGN=in_align,
        OUT_ALIGN=out_align, IN_X=tiling.in_x, MID_Y=tiling.mid_y, MID_X=tiling.mid_x, OUT_Y=tiling.out_y,
        OUT_X=tiling.out_x, num_warps=4, num_stages=1,
        # Three programs per multiprocessor. The assembler would spill some registers to let a fourth one in.
        maxnreg=168,
    )  # fmt: skip
    return y, None if partials is None else sum_partials(partials)


def _launch_forward(x: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
    *filters, mid, size, scale, slope, clamp, keeps_signs = args
    _, signs = _fake_forward(x, bias, *args)
    kept = signs if keeps_signs else None
    y, _ = _run(x, bias, _Filters(*filters), kept, mid, size, scale, slope, clamp, linear=False)
    return y, signs


def _fake_forward(x: Tensor, bias: Tensor | None, *args: Any) -> tuple[Tensor, Tensor]:
    *_, mid, size, _, _, _, keeps_signs = args
    n, c = x.shape[:2]
    signs = (n, c, mid[0], (mid[1] + 3) // 4) if keeps_signs else (0,)
    return x.new_empty(n, c, *size), x.new_empty(signs, dtype=torch.uint8)


def _launch_backward(g: Tensor, bias: Tensor | None, signs: Tensor, *args: Any) -> tuple[Tensor | None, Tensor | None]:
    *filters, mid, size, scale, slope, needs = args
    return _run(g, bias, _Filters(*filters), signs, mid, size, scale, slope, linear=True, needs=needs)


def _fake_backward(g: Tensor, bias: Tensor | None, signs: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    *_, size, _, _, _ = args
    n, c = g.shape[:2]
    return g.new_empty(n, c, *size), g.new_empty(c, dtype=torch.float32)


def _save(ctx: Any, x: Tensor, signs: Tensor, args: Sequence[Any]) -> None:
    *filters, ctx.mid, ctx.size, ctx.scale, ctx.slope = args
    filters = _Filters(*filters)
    ctx.of_filters = filters[2:]
    ctx.shape, ctx.image_dtype = x.shape, x.dtype
    ctx.save_for_backward(signs, filters.a, filters.b)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, *args, _, _ = inputs
    _save(ctx, x, output[1], args)


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    g, _, signs, *args, _ = inputs
    _save(ctx, g, signs, args)


def _backward(ctx: Any, g: Tensor | None, b: Tensor | None = None) -> tuple[Tensor | None, ...]:
    """The gradients of the image and the bias, both for the forward pass and for D."""
    if g is None:
        g = b.new_zeros(*ctx.shape[:2], *ctx.size, dtype=ctx.image_dtype)
    signs, *kernels = ctx.saved_tensors
    filters, size = _Filters(*kernels, *ctx.of_filters).transposed(), list(ctx.shape[2:])
    needs = list(ctx.needs_input_grad[:2])
    return _filtered_lrelu_backward(g, b, signs, *filters, ctx.mid, size, ctx.scale, ctx.slope, needs)


_filtered_lrelu_backward = DifferentiableOp(
    f"filtered_lrelu_backward(Tensor g, Tensor? bias, Tensor signs, {_FILTERS}, SymInt[] mid, SymInt[] size,"
    " float scale, float slope, bool[] needs) -> (Tensor, Tensor)",
    launch=_launch_backward,
    fake=_fake_backward,
    setup_context=_save_for_double_backward,
    backward=_backward,
    is_gradient=True,
)

_filtered_lrelu = DifferentiableOp(
    f"filtered_lrelu(Tensor x, Tensor? bias, {_FILTERS}, SymInt[] mid, SymInt[] size, float scale, float slope,"
    " float? clamp, bool keeps_signs) -> (Tensor, Tensor)",
    launch=_launch_forward,
    fake=_fake_forward,
    setup_context=_save_for_backward,
    backward=lambda ctx, dy, _: _backward(ctx, dy),
)


def _fits(x: Tensor, filters: _Filters, size: Sequence[int]) -> bool:
    """Whether the kernel takes this problem, forward and backward."""
    if x.dtype == torch.float64 or not x.is_contiguous() or runs_on_amd():
        return False
    # Offsets within a plane are of 32 bits.
    if max(math.prod(x.shape[2:]), math.prod(size)) * math.prod(filters.up) * math.prod(filters.down) >= 2**31:
        return False
    forward = filters.tiling(size, x.element_size())
    return forward is not None and filters.transposed().tiling(x.shape[2:], x.element_size()) is not None


def _composed(
    x: Tensor, up_kernel: Tensor | None, down_kernel: Tensor | None, bias: Tensor | None, up: tuple[int, int],
    down: tuple[int, int], padding: Sequence[int], gain: float, slope: float, clamp: float | None, flip: bool,
) -> Tensor:  # fmt: skip
    """The same by other ops, in the type of the arithmetic throughout."""
    y = x.to(compute_dtype(x.dtype))
    y = y if bias is None else bias_act(y, bias, act="linear")
    y = upfirdn2d(y, up_kernel, up=up, padding=padding, gain=up[0] * up[1], flip=flip)
    y = bias_act(y, act="lrelu", negative_slope=slope, gain=gain, clamp=clamp)
    return upfirdn2d(y, down_kernel, down=down, flip=flip).to(x.dtype)


def filtered_lrelu(
    x: Tensor,
    up_kernel: Tensor | None,
    down_kernel: Tensor | None,
    bias: Tensor | None = None,
    *,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 2**0.5,
    negative_slope: float = 0.2,
    clamp: float | None = None,
    flip: bool = False,
) -> Tensor:
    """Adds a bias, resamples up, applies a leaky ReLU with gain and clamp, and resamples down.

    Args:
        x: [N, C, H, W], any floating-point type; contiguous and channels-last are read as they are.
        up_kernel, down_kernel: the filters of the two resamplings, each as in
            :func:`~fastgan_kernels.upfirdn2d`: [kh, kw], [k] or ``None``; constants.
        bias: [C], any floating-point type, or ``None``.
        up: each pixel is followed by ``up - 1`` zeros; one number or (x, y). The filtered image is multiplied by
            ``up_x * up_y``, which keeps its brightness.
        down: one of ``down`` pixels of the activated image is kept; one number or (x, y).
        padding: zeros around the image after zero insertion and bias, as in upfirdn2d; negative ones crop.
        gain: of the activation; finite, greater than 0.
        negative_slope: finite, at least 0; 1 for no activation.
        clamp: limits the activated image to [-clamp, clamp]; at least 0, or ``None``. The gradient is 0 where it is
            met.
        flip: by default both kernels are turned around; ``True`` applies them as they are.

    Returns:
        [N, C, out_h, out_w] in the type and layout of ``x``, with
        out_w = (up_x * W + left + right - (kw of up_kernel - 1) - (kw of down_kernel - 1) + down_x - 1) // down_x.
        Differentiable to any order in ``x`` and ``bias``.

    Raises:
        ValueError: for a shape, device or value other than those above; for kernels larger than the padded image, or
            one that requires a gradient.
        TypeError: for an integer or complex tensor.
    """
    check_images("filtered_lrelu", x)
    check_fir_kernel("filtered_lrelu", "up_kernel", up_kernel, x)
    check_fir_kernel("filtered_lrelu", "down_kernel", down_kernel, x)
    if bias is not None:
        check_operand("filtered_lrelu", "bias", bias, (x.shape[1],), x)
    up, down = factors("filtered_lrelu", "up", up), factors("filtered_lrelu", "down", down)
    padding = paddings("filtered_lrelu", padding)
    check_activation("filtered_lrelu", "lrelu", negative_slope)
    if not 0 < gain < math.inf:
        raise ValueError(f"filtered_lrelu: gain is {gain}, expected a finite number greater than 0")
    if clamp is not None and not clamp >= 0:
        raise ValueError(f"filtered_lrelu: clamp is {clamp}, expected None or a number of at least 0")
    left, right, top, bottom = padding
    padded = [x.shape[2] * up[1] + top + bottom, x.shape[3] * up[0] + left + right]
    both = [a + b - 1 for a, b in zip(extents_of_kernel(up_kernel), extents_of_kernel(down_kernel), strict=True)]
    if padded[0] < both[0] or padded[1] < both[1]:
        raise ValueError(
            f"filtered_lrelu: the kernels span {both} pixels, expected at most {padded}, the image after padding"
        )
    if not runs_triton(x):
        return reference.filtered_lrelu(
            guard_second_order(x), up_kernel, down_kernel, bias, up=up, down=down, padding=padding, gain=gain,
            negative_slope=negative_slope, clamp=clamp, flip=flip,
        )  # fmt: skip
    mid = [p - k + 1 for p, k in zip(padded, extents_of_kernel(up_kernel), strict=True)]
    size = [(m - k) // d + 1 for m, k, d in zip(mid, extents_of_kernel(down_kernel), down[::-1], strict=True)]
    # Here as the shapes have it: y before x.
    filters = _Filters(up_kernel, down_kernel, list(up[::-1]), list(down[::-1]), [top, left], [0, 0], not flip)
    if not _fits(x, filters, size):
        return _composed(x, up_kernel, down_kernel, bias, up, down, padding, gain, negative_slope, clamp, flip)
    differentiable = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    scale, clamp = float(gain * up[0] * up[1]), None if clamp is None else float(clamp)
    y, _ = _filtered_lrelu(x, bias, *filters, mid, size, scale, float(negative_slope), clamp, differentiable)
    return y
