"""FIR resampling: zero insertion, padding, convolution and decimation of every channel, in one pass.

Along one axis, with z the image whose pixels are each followed by up - 1 zeros, and p zeros before it (p < 0 crops),

    y[i] = gain * sum_a k[K - 1 - a] * z[down * i + a - p].

Only every up-th tap meets a pixel. With p = up * q + r, 0 <= r < up, and j = down * i + up - 1 - r, these taps are
a = b + up * m where b = up - 1 - j % up, and they meet x[j // up - q + m].

The adjoint is the same op with up and down exchanged, the kernel turned around, and p replaced by K - 1 - p (which
undoes itself); the size of the output stands for the zeros after it. Gradients of every order are this one kernel.
"""

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_float, check_operand
from fastgan_kernels.differentiable import DifferentiableOp, guard_second_order
from fastgan_kernels.layout import dense
from fastgan_kernels.precision import triton_compute_dtype
from fastgan_kernels.tiling import alignment, strip_tiling


@triton.jit
def _tap(
    taps_ptr, a, b, KH: tl.constexpr, KW: tl.constexpr, FLIP: tl.constexpr, OUTER: tl.constexpr,
    GAIN: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The tap that meets row a and column b of the window; the kernel turned around is what FLIP asks for."""
    row = KH - 1 - a if FLIP else a
    col = KW - 1 - b if FLIP else b
    if OUTER:
        tap = tl.load(taps_ptr + row).to(COMPUTE) * tl.load(taps_ptr + col).to(COMPUTE)
    else:
        tap = tl.load(taps_ptr + (row * KW + col)).to(COMPUTE)
    return tap * tl.full((), GAIN, COMPUTE)


@triton.jit
def _window_sums(
    x_ptr, taps_ptr, offset, row, in_h, pitch, step, reads, b, zeros, UP: tl.constexpr, DOWN: tl.constexpr,
    FIRST: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, FLIP: tl.constexpr, OUTER: tl.constexpr,
    GAIN: tl.constexpr, COMPUTE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sums over ROWS windows, one every DOWN rows from ``row`` on, that meet tap rows FIRST, FIRST + UP ..."""
    TAPS_Y: tl.constexpr = (KH - FIRST + UP - 1) // UP
    TAPS_X: tl.constexpr = (KW + UP - 1) // UP
    taps = ()
    for a in tl.static_range(TAPS_Y):
        for m in tl.static_range(TAPS_X):
            # A lane that has no such tap reads no pixel either.
            met_by = m if UP == 1 else tl.minimum(b + UP * m, KW - 1)
            taps += (_tap(taps_ptr, FIRST + UP * a, met_by, KH, KW, FLIP, OUTER, GAIN, COMPUTE),)
    # Windows overlap: at most this many meet an input row, the first of them until it is done.
    WINDOWS: tl.constexpr = TAPS_Y // DOWN + 1
    open_sums = ()
    for _ in tl.static_range(WINDOWS):
        open_sums += (zeros,)
    sums = ()
    line = x_ptr + (offset + row.to(tl.int64) * pitch)
    for t in tl.static_range(ROWS):
        for r in tl.static_range((t - 1) * DOWN + TAPS_Y if t > 0 else 0, t * DOWN + TAPS_Y):
            if r % DOWN < TAPS_Y:
                exists = (row + r >= 0) & (row + r < in_h)
                for m in tl.static_range(TAPS_X):
                    x = tl.load(line + (m * step + r * pitch), mask=reads[m] & exists, other=0.0).to(COMPUTE)
                    added = ()
                    for w in tl.static_range(WINDOWS):
                        if r >= (t + w) * DOWN and t + w < ROWS:
                            tap = taps[(r - (t + w) * DOWN) * TAPS_X + m]
                            added += (open_sums[w] + tap * x,)
                        else:
                            added += (open_sums[w],)
                    open_sums = added
        sums += (open_sums[0],)
        still_open = ()
        for w in tl.static_range(1, WINDOWS):
            still_open += (open_sums[w],)
        still_open += (zeros,)
        open_sums = still_open
    return sums


@triton.jit(do_not_specialize=["images", "channel_groups", "in_h", "in_w", "out_h", "out_w", "origin_y", "origin_x"])
def _kernel(
    x_ptr,
    taps_ptr,
    y_ptr,
    images,
    channel_groups,
    in_h,
    in_w,
    out_h,
    out_w,
    origin_y,
    origin_x,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    LEAD_Y: tl.constexpr,
    LEAD_X: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    FLIP: tl.constexpr,
    OUTER: tl.constexpr,
    GAIN: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr,
    CHANNEL_ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_STRIPS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Strips of ROWS output rows of one phase, a thread each: an input row is loaded once for all rows that it meets.

    An image is a sample in channels-last and a plane, of one channel, in contiguous layout.
    """
    pid = tl.program_id(0)
    col_tiles = tl.cdiv(out_w, BLOCK_COLS)
    if CHANNELS_LAST:
        channels = channel_groups * CHANNEL_ALIGN
        channel_tiles = tl.cdiv(channels, BLOCK_CHANNELS)
        channel = (pid % channel_tiles * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS))[None, :]
        pid = pid // channel_tiles
        place = tl.arange(0, BLOCK_STRIPS * BLOCK_COLS)
        strip = (pid // col_tiles * BLOCK_STRIPS + place // BLOCK_COLS)[:, None]
        col = (pid % col_tiles * BLOCK_COLS + place % BLOCK_COLS)[:, None]
    else:
        channels = 1
        channel = 0
        strip = (pid // col_tiles * BLOCK_STRIPS + tl.arange(0, BLOCK_STRIPS))[:, None]
        col = (pid % col_tiles * BLOCK_COLS + tl.arange(0, BLOCK_COLS))[None, :]
    strips = tl.cdiv(tl.cdiv(out_h, UP), ROWS)
    image = strip // strips
    first_row = strip % strips * ROWS  # of the strip, among the rows of its phase
    writes = (image < images) & (col < out_w)
    if CHANNELS_LAST:
        writes &= channel < channels
    image = image.to(tl.int64)
    in_pitch = in_w.to(tl.int64) * channels
    out_pitch = out_w.to(tl.int64) * channels

    # Columns: where the window of each lane starts, and which of its pixels exist.
    TAPS_X: tl.constexpr = (KW + UP - 1) // UP
    lead = col * DOWN + LEAD_X
    in_col = lead // UP - origin_x
    b = UP - 1 - lead % UP
    in_offset = image * in_h * in_pitch + in_col.to(tl.int64) * channels + channel
    reads = ()
    for m in tl.static_range(TAPS_X):
        met = writes & (in_col + m >= 0) & (in_col + m < in_w)
        if KW % UP != 0:
            met &= b + UP * m < KW
        reads += (met,)

    if CHANNELS_LAST:
        zeros = tl.zeros([BLOCK_STRIPS * BLOCK_COLS, BLOCK_CHANNELS], COMPUTE)
    else:
        zeros = tl.zeros([BLOCK_STRIPS, BLOCK_COLS], COMPUTE)
    for phase in tl.static_range(UP):
        in_row = first_row * DOWN + (phase * DOWN + LEAD_Y) // UP - origin_y
        sums = _window_sums(
            x_ptr, taps_ptr, in_offset, in_row, in_h, in_pitch, channels, reads, b, zeros, UP, DOWN,
            UP - 1 - (phase * DOWN + LEAD_Y) % UP, KH, KW, FLIP, OUTER, GAIN, COMPUTE, ROWS,
        )  # fmt: skip
        row = first_row * UP + phase
        first_line = y_ptr + ((image * out_h + row) * out_pitch + col.to(tl.int64) * channels + channel)
        for t in tl.static_range(ROWS):
            y = sums[t].to(y_ptr.dtype.element_ty)
            tl.store(first_line + t * UP * out_pitch, y, mask=writes & (row + t * UP < out_h))


def _new_output(x: Tensor, out_h: int, out_w: int) -> Tensor:
    """Uninitialised memory for the output of ``x``, in the layout of ``dense(x)``."""
    n, c = x.shape[:2]
    if x.is_contiguous() or not x.movedim(1, -1).is_contiguous():
        return x.new_empty(n, c, out_h, out_w)
    return x.new_empty(n, out_h, out_w, c).movedim(-1, 1)


def _launch(
    x: Tensor,
    kernel: Tensor,
    up: int,
    down: int,
    pad_y: int,
    pad_x: int,
    out_h: int,
    out_w: int,
    gain: float,
    flip: bool,
) -> Tensor:
    y = _new_output(x, out_h, out_w)
    if y.numel() == 0:
        return y
    if x.numel() == 0:
        return y.zero_()
    x = dense(x)
    channels_last = not x.is_contiguous()
    images = x.shape[0] if channels_last else x.shape[0] * x.shape[1]
    channels = x.shape[1] if channels_last else 1
    tiling = strip_tiling(
        images, channels, out_h, out_w, x.element_size(), up=up, down=down, channels_last=channels_last
    )
    (origin_y, rest_y), (origin_x, rest_x) = divmod(pad_y, up), divmod(pad_x, up)
    _kernel[tiling.grid](
        x,
        kernel.contiguous(),
        y,
        images,
        channels // alignment(channels),
        *x.shape[2:],
        out_h,
        out_w,
        origin_y,
        origin_x,
        UP=up,
        DOWN=down,
        LEAD_Y=up - 1 - rest_y,
        LEAD_X=up - 1 - rest_x,
        KH=kernel.shape[0],
        KW=kernel.shape[-1],
        FLIP=flip,
        OUTER=kernel.dim() == 1,
        GAIN=gain,
        CHANNELS_LAST=channels_last,
        COMPUTE=triton_compute_dtype(x.dtype),
        CHANNEL_ALIGN=alignment(channels),
        ROWS=tiling.rows,
        BLOCK_STRIPS=tiling.block_strips,
        BLOCK_COLS=tiling.block_cols,
        BLOCK_CHANNELS=tiling.block_channels,
        num_warps=tiling.num_warps,
    )
    return y


def _save_for_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, ctx.up, ctx.down, ctx.pad_y, ctx.pad_x, _, _, ctx.gain, ctx.flip = inputs
    ctx.in_h, ctx.in_w = x.shape[2:]
    ctx.save_for_backward(kernel)


def _adjoint(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
    if dy is None:
        return (None,) * 10
    (kernel,) = ctx.saved_tensors
    pad_y, pad_x = kernel.shape[0] - 1 - ctx.pad_y, kernel.shape[-1] - 1 - ctx.pad_x
    dx = _gradient(dy, kernel, ctx.down, ctx.up, pad_y, pad_x, ctx.in_h, ctx.in_w, ctx.gain, not ctx.flip)
    return dx, *(None,) * 9


def _op(name: str, *, is_gradient: bool) -> DifferentiableOp:
    return DifferentiableOp(
        f"{name}(Tensor x, Tensor kernel, int up, int down, int pad_y, int pad_x, SymInt out_h, SymInt out_w,"
        " float gain, bool flip) -> Tensor",
        launch=_launch,
        fake=lambda x, kernel, up, down, pad_y, pad_x, out_h, out_w, gain, flip: _new_output(x, out_h, out_w),
        setup_context=_save_for_gradient,
        backward=_adjoint,
        is_gradient=is_gradient,
    )


_gradient = _op("upfirdn2d_gradient", is_gradient=True)
_upfirdn2d = _op("upfirdn2d", is_gradient=False)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    *,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
) -> Tensor:
    """Resamples every channel by a FIR filter: inserts zeros, pads, convolves and keeps every ``down``-th pixel.

    Args:
        x: [N, C, H, W], any floating-point type; contiguous and channels-last are read as they are.
        kernel: [kh, kw], or [k] for its outer product with itself; any floating-point type. It is turned around as a
            convolution has it, and it is a constant: no gradient is computed for it.
        up: each pixel is followed by ``up - 1`` zeros along both axes; at least 1.
        down: one of ``down`` pixels is kept along both axes, the first of them first; at least 1.
        padding: zeros around the image after zero insertion, [left, right, top, bottom] or one number for all four;
            a negative one crops.
        gain: multiplies the output; finite. ``up**2`` keeps the brightness of an image resampled up.

    Returns:
        [N, C, (up * H + top + bottom - kh) // down + 1, (up * W + left + right - kw) // down + 1] in the type and
        layout of ``x``. Differentiable to any order in ``x``, each by the same kernel. Saves ``kernel`` alone.

    Raises:
        ValueError: for a shape, device or value other than those above; for a kernel larger than the padded image, or
            one that requires a gradient.
        TypeError: for an integer or complex tensor.
    """
    if x.dim() != 4:
        raise ValueError(f"upfirdn2d: x has shape {list(x.shape)}, expected [N, C, H, W]")
    check_float("upfirdn2d", "x", x)
    if kernel.dim() not in (1, 2) or kernel.numel() == 0:
        raise ValueError(f"upfirdn2d: kernel has shape {list(kernel.shape)}, expected [kh, kw] or [k] of at least 1")
    check_operand("upfirdn2d", "kernel", kernel, kernel.shape, x)
    if kernel.requires_grad:
        raise ValueError("upfirdn2d: kernel requires a gradient, expected a constant: use kernel.detach()")
    for name, value in (("up", up), ("down", down)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"upfirdn2d: {name} is {value!r}, expected an integer of at least 1")
    pads = [padding] * 4 if isinstance(padding, int) else padding
    if not isinstance(pads, (list, tuple)) or len(pads) != 4 or not all(isinstance(p, int) for p in pads):
        raise ValueError(f"upfirdn2d: padding is {padding!r}, expected an integer or [left, right, top, bottom]")
    if not -math.inf < gain < math.inf:
        raise ValueError(f"upfirdn2d: gain is {gain}, expected a finite number")
    left, right, top, bottom = pads
    kh, kw = kernel.shape[0], kernel.shape[-1]
    padded = x.shape[2] * up + top + bottom, x.shape[3] * up + left + right
    if padded[0] < kh or padded[1] < kw:
        raise ValueError(f"upfirdn2d: kernel is {[kh, kw]}, expected at most {list(padded)}, the image after padding")
    if not runs_triton(x):
        return reference.upfirdn2d(guard_second_order(x), kernel, up=up, down=down, padding=pads, gain=gain)
    out_h, out_w = (padded[0] - kh) // down + 1, (padded[1] - kw) // down + 1
    return _upfirdn2d(x, kernel, up, down, top, left, out_h, out_w, float(gain), True)
