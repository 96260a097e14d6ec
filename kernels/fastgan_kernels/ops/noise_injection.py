"""Noise injection (Karras et al. 2019, section 3.2 and figure 1b).

    y = x + strength * noise

With noise [N, 1, *spatial] for all channels and a strength for each channel or for all. The gradient of x is dy itself;
the others are

    B(dy, strength, noise) = (dstrength, dnoise) = (sum(dy * noise), sum over c of dy * strength)

B is linear in each argument, so for cotangents (a, b) its own derivative in strength and noise is B(dy, b, a), its
places exchanged, and in dy it is

    E(a, noise, strength, b) = a * noise + strength * b.

The derivative of E, for a cotangent h, is B(h, strength, noise) in (a, b) and B(h, a, b) in (strength, noise). So two
kernels make the gradients of every order: the forward pass adds products to x or to nothing, the other sums them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_feature_map, check_operand, check_strength, check_tensor
from fastgan_kernels.launch import Launch, decided_once
from fastgan_kernels.layout import contiguous, dense, empty_dense, extents, matrix_of
from fastgan_kernels.noise import draw_seed, standard_normal
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import NoiseTiling, alignment, noise_tiling

# A program is one warp. It keeps the noise of a block of pixels and walks with it over channels.


class Block(NamedTuple):
    """In kernels, the pixels of a program.

    The number of channels and of pixels in all, the offset of the block in a feature map, the distances of neighboring
    channels and of the block's pixels in it, which of them exist, and the index n * HW + pixel of each.
    """

    channels: Any
    all_pixels: Any
    start: Any
    channel_step: Any
    pixel: Any
    exists: Any
    counter: Any


@triton.jit
def _block_of_pixels(
    minor_groups, major, pixel_tiles, ALIGN: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    """The block of this program. Channels-last, all samples count as one."""
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    lane = tl.arange(0, BLOCK_PIXELS)
    sample = (tl.program_id(0) // pixel_tiles).to(tl.int64)
    first = (tl.program_id(0) % pixel_tiles).to(tl.int64) * BLOCK_PIXELS
    exists = lane < pixels - first
    counter = sample * pixels + first + lane
    all_pixels = (tl.num_programs(0) // pixel_tiles).to(tl.int64) * pixels
    if CHANNELS_LAST:
        pixel = lane.to(tl.int64) * channels
        return Block(channels, all_pixels, first * channels, 1, pixel, exists, counter)
    else:
        start = sample * channels * pixels + first
        return Block(channels, all_pixels, start, pixels.to(tl.int64), lane, exists, counter)


@triton.jit
def _tiles(tiles, channels, WALKS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """The first of this program's tiles, and the tile after the last one."""
    start = tl.program_id(1) * tiles
    # A loop that runs once is none to the compiler.
    return start, tl.minimum(start + tiles, tl.cdiv(channels, BLOCK_CHANNELS)) if WALKS else start + 1


@triton.jit
def _tile_of_channels(tile, block, BLOCK_CHANNELS: tl.constexpr):
    """A tile: its channels, the offset of its first element, offsets [channels, pixels] from there, and a mask."""
    lane = tl.arange(0, BLOCK_CHANNELS)
    channel = tile * BLOCK_CHANNELS + lane
    offset = (lane * block.channel_step)[:, None] + block.pixel[None, :]
    mask = (channel < block.channels)[:, None] & block.exists[None, :]
    return channel, block.start + tile * BLOCK_CHANNELS * block.channel_step, offset, mask


@triton.jit
def _noise_of(noise_ptr, seed_ptr, block, COMPUTE: tl.constexpr):
    """The noise of a block of pixels, read or, where there is a seed, drawn."""
    if noise_ptr is not None:
        return tl.load(noise_ptr + block.counter, mask=block.exists, other=0.0).to(COMPUTE)[None, :]
    else:
        return standard_normal(seed_ptr, block.counter).to(COMPUTE)[None, :]


@triton.jit
def _strength_of(strength_ptr, channel, channels, PER_CHANNEL: tl.constexpr, COMPUTE: tl.constexpr):
    if PER_CHANNEL:
        return tl.load(strength_ptr + channel, mask=channel < channels, other=0.0).to(COMPUTE)[:, None]
    else:
        return tl.load(strength_ptr).to(COMPUTE)


@triton.jit(do_not_specialize=["minor_groups", "major", "pixel_tiles", "tiles"])
def _forward_kernel(
    x_ptr, a_ptr, noise_ptr, seed_ptr, strength_ptr, b_ptr, y_ptr,
    minor_groups, major, pixel_tiles, tiles,
    PER_CHANNEL: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    WALKS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """y = x + a * noise + strength * b. An absent x and factors that are both absent are None."""
    block = _block_of_pixels(minor_groups, major, pixel_tiles, ALIGN, CHANNELS_LAST, BLOCK_PIXELS)
    if a_ptr is not None:
        noise = _noise_of(noise_ptr, seed_ptr, block, COMPUTE)
    if b_ptr is not None:
        b = _noise_of(b_ptr, None, block, COMPUTE)
    start, stop = _tiles(tiles, block.channels, WALKS, BLOCK_CHANNELS)
    for tile in range(start, stop):
        channel, first, offset, mask = _tile_of_channels(tile, block, BLOCK_CHANNELS)
        if x_ptr is not None:
            y = tl.load(x_ptr + first + offset, mask=mask, other=0.0).to(COMPUTE)
        else:
            y = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
        if a_ptr is not None:
            y += _strength_of(a_ptr, channel, block.channels, PER_CHANNEL, COMPUTE) * noise
        if b_ptr is not None:
            y += _strength_of(strength_ptr, channel, block.channels, PER_CHANNEL, COMPUTE) * b
        tl.store(y_ptr + first + offset, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["minor_groups", "major", "pixel_tiles", "tiles"])
def _backward_kernel(
    g_ptr, strength_ptr, noise_ptr, seed_ptr, dstrength_ptr, dnoise_ptr,
    minor_groups, major, pixel_tiles, tiles,
    PER_CHANNEL: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    WALKS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Partial sums: of g * noise per block of pixels and channel, of g * strength per split and pixel.

    An output that is not needed is None, and so is the operand that only this output needs.
    """
    block = _block_of_pixels(minor_groups, major, pixel_tiles, ALIGN, CHANNELS_LAST, BLOCK_PIXELS)
    if dstrength_ptr is not None:
        noise = _noise_of(noise_ptr, seed_ptr, block, COMPUTE)
        dstrength_ptr += tl.program_id(0).to(tl.int64) * block.channels
    if dnoise_ptr is not None:
        dnoise = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
    start, stop = _tiles(tiles, block.channels, WALKS, BLOCK_CHANNELS)
    for tile in range(start, stop):
        channel, first, offset, mask = _tile_of_channels(tile, block, BLOCK_CHANNELS)
        g = tl.load(g_ptr + first + offset, mask=mask, other=0.0).to(COMPUTE)
        if dstrength_ptr is not None:
            # The first thread stores all sums, which every thread has: to be stored side by side by several threads
            # they would pass through shared memory.
            total = tl.broadcast_to(tl.sum(g * noise, axis=1, keep_dims=True), [BLOCK_CHANNELS, 32])
            thread = tl.arange(0, 32)[None, :]
            of_first = (channel < block.channels)[:, None] & (thread == 0)
            tl.store(dstrength_ptr + (channel[:, None] + thread), total, mask=of_first)
        if dnoise_ptr is not None:
            dnoise += g * _strength_of(strength_ptr, channel, block.channels, PER_CHANNEL, COMPUTE)
    if dnoise_ptr is not None:
        dnoise_ptr += tl.program_id(1) * block.all_pixels
        tl.store(dnoise_ptr + block.counter, tl.sum(dnoise, axis=0), mask=block.exists)


@decided_once
def _launch_of(
    kernel: Any, shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, per_channel: bool
) -> tuple[Launch, NoiseTiling]:
    m = matrix_of(shape, is_contiguous)
    align = alignment(m.cols)
    # Channels-last, the pixels of all samples are rows of one matrix.
    samples, pixels = (1, m.rows) if m.channels_last else (shape[0], m.cols)
    sums = kernel is _backward_kernel
    tiling = noise_tiling(samples, m.channels, pixels, dtype.itemsize, channels_last=m.channels_last, sums=sums)
    major = m.rows if m.channels_last else m.channels
    launch = Launch(
        kernel, tiling.grid, (m.cols // align, major, tiling.pixel_programs // samples, tiling.tiles),
        PER_CHANNEL=per_channel, CHANNELS_LAST=m.channels_last, COMPUTE=triton_compute_dtype(dtype), ALIGN=align,
        WALKS=tiling.walks, **tiling.constants,
    )  # fmt: skip
    return launch, tiling


def _add_products(
    like: Tensor, x: Tensor | None, a: Tensor | None, noise: Tensor | None, seed: Tensor | None,
    strength: Tensor | None, b: Tensor | None,
) -> Tensor:  # fmt: skip
    """x + a * noise + strength * b, in the shape, type and layout of the dense ``like``."""
    y = torch.empty_like(like)
    if y.numel():
        per_channel = (strength if a is None else a).dim() == 1
        launch, _ = _launch_of(_forward_kernel, like.shape, like.is_contiguous(), like.dtype, per_channel)
        launch(x, *map(contiguous, (a, noise, seed, strength, b)), y)
    return y


def _launch_forward(x: Tensor, strength: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor:
    x = dense(x)
    return _add_products(x, x, strength, noise, seed, None, None)


def noise_gradients(
    g: Tensor, strength: Tensor | None, noise: Tensor | None, seed: Tensor | None, per_channel: bool, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """B(g, strength, noise); the operand of a gradient that is not needed may be None."""
    g, (needs_strength, needs_noise) = dense(g), needs
    if g.numel() == 0:
        gradients = _new_gradients(g, per_channel)
        return tuple(t.zero_() if need else None for t, need in zip(gradients, needs, strict=True))
    launch, tiling = _launch_of(_backward_kernel, g.shape, g.is_contiguous(), g.dtype, per_channel)
    channels, dtype = g.shape[1], compute_dtype(g.dtype)
    dstrength = g.new_empty(tiling.pixel_programs, channels, 1, dtype=dtype) if needs_strength else None
    dnoise = g.new_empty(tiling.splits, g.numel() // channels, 1, dtype=dtype) if needs_noise else None
    strength = contiguous(strength) if needs_noise else None
    noise, seed = map(contiguous, (noise, seed)) if needs_strength else (None, None)
    launch(g, strength, noise, seed, dstrength, dnoise)
    if needs_strength:
        dstrength = sum_partials(dstrength)
        dstrength = dstrength if per_channel else sum_partials(dstrength.view(1, 1, channels)).view(())
    if needs_noise:
        dnoise = (sum_partials(dnoise) if tiling.splits > 1 else dnoise).view(g.shape[0], 1, *g.shape[2:])
    return dstrength, dnoise


def _new_gradients(g: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    shapes = g.shape[1:2] if per_channel else (), (g.shape[0], 1, *g.shape[2:])
    return tuple(g.new_empty(shape, dtype=compute_dtype(g.dtype)) for shape in shapes)


def _launch_double_backward(g: Tensor, *factors: Tensor | None) -> Tensor:
    """E in the shape, type and layout of g, whose values do not matter."""
    return _add_products(dense(g), None, *factors)


def _save_factors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _triple_backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
    """The derivative of E: B at its factors and at its cotangents."""
    a, noise, seed, strength, b = ctx.saved_tensors
    _, needs_a, needs_noise, _, needs_strength, needs_b = ctx.needs_input_grad
    per_channel = (strength if a is None else a).dim() == 1
    da = dnoise = dstrength = db = None
    if needs_a or needs_b:
        da, db = _noise_injection_backward(h, strength, noise, seed, per_channel, [needs_a, needs_b])
    if needs_strength or needs_noise:
        dstrength, dnoise = _noise_injection_backward(h, a, b, None, per_channel, [needs_strength, needs_noise])
    return None, da, dnoise, None, dstrength, db


def _save_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor | None, ...]) -> None:
    *tensors, ctx.per_channel, _ = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx: Any, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
    """The gradient of <dstrength, a> + <dnoise, b>."""
    g, strength, noise, seed = ctx.saved_tensors
    needs_g, needs_strength, needs_noise = ctx.needs_input_grad[:3]
    needs = [needs_strength and b is not None, needs_noise and a is not None]
    dg = dstrength = dnoise = None
    if needs_g:
        given = (None, None, None) if a is None else (a, noise, seed)
        dg = _noise_injection_double_backward(g, *given, *((None, None) if b is None else (strength, b)))
    if any(needs):
        dstrength, dnoise = _noise_injection_backward(g, a, b, None, ctx.per_channel, needs)
    return dg, dstrength, dnoise


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], y: Tensor) -> None:
    _, strength, noise, seed = inputs
    needs_strength, needs_noise = ctx.needs_input_grad[1:3]
    ctx.per_channel = strength.dim() == 1
    ctx.save_for_backward(
        strength if needs_noise else None,
        noise if needs_strength else None,
        seed if needs_strength else None,
    )


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    needs_x, *needs = ctx.needs_input_grad[:3]
    dstrength = dnoise = None
    if any(needs):
        dstrength, dnoise = _noise_injection_backward(dy, *ctx.saved_tensors, ctx.per_channel, needs)
    return dy if needs_x else None, dstrength, dnoise


_noise_injection_double_backward = DifferentiableOp(
    "noise_injection_double_backward(Tensor g, Tensor? a, Tensor? noise, Tensor? seed, Tensor? strength, Tensor? b)"
    " -> Tensor",
    launch=_launch_double_backward,
    fake=lambda g, *_: empty_dense(g),
    setup_context=_save_factors,
    backward=_triple_backward,
    is_gradient=True,
)

_noise_injection_backward = DifferentiableOp(
    "noise_injection_backward(Tensor g, Tensor? strength, Tensor? noise, Tensor? seed, bool per_channel, bool[] needs)"
    " -> (Tensor, Tensor)",
    launch=noise_gradients,
    fake=lambda g, strength, noise, seed, per_channel, needs: _new_gradients(g, per_channel),
    setup_context=_save_for_double_backward,
    backward=_double_backward,
    is_gradient=True,
)

_noise_injection = DifferentiableOp(
    "noise_injection(Tensor x, Tensor strength, Tensor? noise, Tensor? seed) -> Tensor",
    launch=_launch_forward,
    fake=lambda x, *_: empty_dense(x),
    setup_context=_save_for_backward,
    backward=_backward,
)


def noise_injection(x: Tensor, strength: Tensor, noise: Tensor | None = None) -> Tensor:
    """Adds noise, the same for all channels of a pixel, times a learned strength.

    Args:
        x: [N, C, *spatial], any floating-point type; contiguous and channels-last are read as they are.
        strength: [C], or [] or [1] for all channels; any floating-point type.
        noise: [N, 1, *spatial], or [1, 1, *spatial] for all samples (repeated in memory for each); any floating-point
            type. ``None`` draws standard normal noise that follows ``torch.manual_seed``: new values at every call and
            every replay of a CUDA graph, the same values in the backward pass, in every layout and on every backend.

    Returns:
        x + strength * noise in the shape, type and layout of ``x``. Differentiable to any order in all three; every
        order is fused (the gradient of ``x`` is the incoming one itself). Saves the noise, or a seed where it is drawn;
        and the strength where the noise requires a gradient.

    Raises:
        ValueError: for a shape or device other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("noise_injection", x)
    check_tensor("noise_injection", "strength", strength)
    if list(strength.shape) == [1]:
        strength = strength.reshape(())
    check_strength("noise_injection", strength, x)
    if noise is not None:
        check_tensor("noise_injection", "noise", noise)
        shape = x.shape[0], 1, *x.shape[2:]
        if list(noise.shape) == [1, *shape[1:]]:
            noise = noise.expand(shape)
        check_operand("noise_injection", "noise", noise, shape, x)
    seed = draw_seed(x) if noise is None else None
    if not runs_triton(x):
        noise = reference.normal_noise(seed, x) if noise is None else noise
        return reference.noise_injection(guard_second_order(x), strength, noise)
    return _noise_injection(x, strength, noise, seed)
