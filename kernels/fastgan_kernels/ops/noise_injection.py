"""Noise injection (Karras et al. 2019, section 3.2 and figure 1b).

    y = x + strength * noise

With noise [N, 1, *spatial] for all channels and a strength for each channel or for all. The gradient of x is dy itself;
the others are

    B(dy, strength, noise) = (dstrength, dnoise) = (sum(dy * noise), sum over c of dy * strength)

B is linear in each argument, so for cotangents (a, b) its own derivative in strength and noise is B(dy, b, a), its
places exchanged, and in dy it is a * noise + b * strength.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels import reference
from fastgan_kernels.autograd import DifferentiableOp, guard_second_order
from fastgan_kernels.backend import runs_triton
from fastgan_kernels.checks import check_feature_map, check_operand, check_strength
from fastgan_kernels.layout import as_matrix, dense, empty_dense
from fastgan_kernels.noise import draw_seed, normal_noise, standard_normal
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import NoiseTiling, alignment, noise_tiling

# A program keeps the noise of a block of pixels and walks with it over channels.


@triton.jit
def _block_of_pixels(
    minor_groups, major, pixel_tiles, ALIGN: tl.constexpr, CHANNELS_LAST: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    """Channels, pixels, the sample, the pixels of this program, which exist, and their counters.

    Channels-last, all samples count as one.
    """
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK_PIXELS)
    if CHANNELS_LAST:
        pixel = block.to(tl.int64) * BLOCK_PIXELS + lane
        return minor_groups * ALIGN, major, tl.zeros((), tl.int64), pixel, pixel < major, pixel
    else:
        pixels = minor_groups * ALIGN
        sample = (block // pixel_tiles).to(tl.int64)
        pixel = block % pixel_tiles * BLOCK_PIXELS + lane
        return major, pixels, sample, pixel, pixel < pixels, sample * pixels + pixel


@triton.jit
def _tile_of_channels(
    tile, sample, pixel, exists, channels, pixels, CHANNELS_LAST: tl.constexpr, BLOCK_CHANNELS: tl.constexpr
):
    """The channels of a tile, the offsets [channels, pixels] of its elements, and which of them exist."""
    channel = tile * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    mask = (channel < channels)[:, None] & exists[None, :]
    if CHANNELS_LAST:
        return channel, (pixel * channels)[None, :] + channel[:, None], mask
    else:
        return channel, ((sample * channels + channel) * pixels)[:, None] + pixel[None, :], mask


@triton.jit
def _noise_of(noise_ptr, seed_ptr, counter, exists, COMPUTE: tl.constexpr):
    """The noise of a block of pixels, read or, where there is a seed, drawn."""
    if noise_ptr is not None:
        return tl.load(noise_ptr + counter, mask=exists, other=0.0).to(COMPUTE)
    else:
        return standard_normal(seed_ptr, counter).to(COMPUTE)


@triton.jit
def _strength_of(strength_ptr, channel, channels, PER_CHANNEL: tl.constexpr, COMPUTE: tl.constexpr):
    if PER_CHANNEL:
        return tl.load(strength_ptr + channel, mask=channel < channels, other=0.0).to(COMPUTE)[:, None]
    else:
        return tl.load(strength_ptr).to(COMPUTE)


@triton.jit(do_not_specialize=["minor_groups", "major", "pixel_tiles", "tiles"])
def _forward_kernel(
    x_ptr, strength_ptr, noise_ptr, seed_ptr, y_ptr,
    minor_groups, major, pixel_tiles, tiles,
    PER_CHANNEL: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    channels, pixels, sample, pixel, exists, counter = _block_of_pixels(
        minor_groups, major, pixel_tiles, ALIGN, CHANNELS_LAST, BLOCK_PIXELS
    )
    noise = _noise_of(noise_ptr, seed_ptr, counter, exists, COMPUTE)
    start = tl.program_id(1) * tiles
    for tile in range(start, tl.minimum(start + tiles, tl.cdiv(channels, BLOCK_CHANNELS))):
        channel, offset, mask = _tile_of_channels(
            tile, sample, pixel, exists, channels, pixels, CHANNELS_LAST, BLOCK_CHANNELS
        )
        y = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        y += _strength_of(strength_ptr, channel, channels, PER_CHANNEL, COMPUTE) * noise[None, :]
        tl.store(y_ptr + offset, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["minor_groups", "major", "pixel_tiles", "tiles"])
def _backward_kernel(
    g_ptr, strength_ptr, noise_ptr, seed_ptr, dstrength_ptr, dnoise_ptr,
    minor_groups, major, pixel_tiles, tiles,
    PER_CHANNEL: tl.constexpr, CHANNELS_LAST: tl.constexpr, COMPUTE: tl.constexpr, ALIGN: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Partial sums: of g * noise per block of pixels and channel, of g * strength per split and pixel.

    An output that is not needed is None, and so is the operand that only this output needs.
    """
    channels, pixels, sample, pixel, exists, counter = _block_of_pixels(
        minor_groups, major, pixel_tiles, ALIGN, CHANNELS_LAST, BLOCK_PIXELS
    )
    if dstrength_ptr is not None:
        noise = _noise_of(noise_ptr, seed_ptr, counter, exists, COMPUTE)
    if dnoise_ptr is not None:
        dnoise = tl.zeros([BLOCK_CHANNELS, BLOCK_PIXELS], dtype=COMPUTE)
    start = tl.program_id(1) * tiles
    for tile in range(start, tl.minimum(start + tiles, tl.cdiv(channels, BLOCK_CHANNELS))):
        channel, offset, mask = _tile_of_channels(
            tile, sample, pixel, exists, channels, pixels, CHANNELS_LAST, BLOCK_CHANNELS
        )
        g = tl.load(g_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        if dstrength_ptr is not None:
            partial = tl.program_id(0).to(tl.int64) * channels + channel
            tl.store(dstrength_ptr + partial, tl.sum(g * noise[None, :], axis=1), mask=channel < channels)
        if dnoise_ptr is not None:
            dnoise += g * _strength_of(strength_ptr, channel, channels, PER_CHANNEL, COMPUTE)
    if dnoise_ptr is not None:
        all_pixels = tl.num_programs(0).to(tl.int64) // pixel_tiles * pixels
        tl.store(dnoise_ptr + (tl.program_id(1) * all_pixels + counter), tl.sum(dnoise, axis=0), mask=exists)


class _Launch:
    """A dense feature map, its tiling, and the arguments that both kernels take."""

    def __init__(self, x: Tensor, *, per_channel: bool, sums: bool = False) -> None:
        m = as_matrix(x)
        align = alignment(m.cols)
        # Channels-last, the pixels of all samples are rows of one matrix.
        samples, pixels = (1, m.rows) if m.channels_last else (x.shape[0], m.cols)
        self.tiling: NoiseTiling = noise_tiling(
            samples, m.channels, pixels, x.element_size(), channels_last=m.channels_last, sums=sums
        )
        self.extents = (
            m.cols // align,
            m.rows if m.channels_last else m.channels,
            self.tiling.pixel_programs // samples,
            self.tiling.tiles,
        )
        self.constants = {
            "PER_CHANNEL": per_channel,
            "CHANNELS_LAST": m.channels_last,
            "COMPUTE": triton_compute_dtype(x.dtype),
            "ALIGN": align,
            **self.tiling.constants,
        }

    def noise(self, x: Tensor, noise: Tensor | None, seed: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The noise as [N, pixels] and None; or None and the seed, where every program may draw the noise itself."""
        if seed is not None and self.tiling.splits > 1:
            noise, seed = normal_noise(seed, x), None
        return None if noise is None else noise.reshape(x.shape[0], -1).contiguous(), seed


def _launch_forward(x: Tensor, strength: Tensor, noise: Tensor | None, seed: Tensor | None) -> Tensor:
    x = dense(x)
    y = torch.empty_like(x)
    if y.numel() == 0:
        return y
    launch = _Launch(x, per_channel=strength.dim() == 1)
    _forward_kernel[launch.tiling.grid](
        x, strength.contiguous(), *launch.noise(x, noise, seed), y, *launch.extents, **launch.constants
    )
    return y


def noise_gradients(
    g: Tensor, strength: Tensor | None, noise: Tensor | None, seed: Tensor | None, per_channel: bool, needs: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """B(g, strength, noise); the operand of a gradient that is not needed may be None."""
    g, (needs_strength, needs_noise) = dense(g), needs
    if g.numel() == 0:
        gradients = _new_gradients(g, per_channel)
        return tuple(t.zero_() if need else None for t, need in zip(gradients, needs, strict=True))
    launch = _Launch(g, per_channel=per_channel, sums=True)
    tiling, channels, dtype = launch.tiling, g.shape[1], compute_dtype(g.dtype)
    dstrength = g.new_empty(tiling.pixel_programs, channels, 1, dtype=dtype) if needs_strength else None
    dnoise = g.new_empty(tiling.splits, g.numel() // channels, 1, dtype=dtype) if needs_noise else None
    _backward_kernel[tiling.grid](
        g,
        strength.contiguous() if needs_noise else None,
        *(launch.noise(g, noise, seed) if needs_strength else (None, None)),
        dstrength,
        dnoise,
        *launch.extents,
        **launch.constants,
    )
    if needs_strength:
        dstrength = sum_partials(dstrength)
        dstrength = dstrength if per_channel else sum_partials(dstrength.view(1, 1, channels)).view(())
    if needs_noise:
        dnoise = (sum_partials(dnoise) if tiling.splits > 1 else dnoise).view(g.shape[0], 1, *g.shape[2:])
    return dstrength, dnoise


def _new_gradients(g: Tensor, per_channel: bool) -> tuple[Tensor, Tensor]:
    shapes = g.shape[1:2] if per_channel else (), (g.shape[0], 1, *g.shape[2:])
    return tuple(g.new_empty(shape, dtype=compute_dtype(g.dtype)) for shape in shapes)


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
        with reference.no_autocast(g):
            dtype = compute_dtype(g.dtype)
            if a is not None:
                noise = normal_noise(seed, g.detach()) if noise is None else noise
                dg = _across(a, g) * noise.to(dtype)
            dg = reference.sum_of(dg, None if b is None else _across(strength.to(dtype), g) * b).expand(g.shape)
    if any(needs):
        dstrength, dnoise = _noise_injection_backward(g, a, b, None, ctx.per_channel, needs)
    return dg, dstrength, dnoise


def _across(strength: Tensor, x: Tensor) -> Tensor:
    """``strength`` so that it broadcasts over the spatial axes of ``x``."""
    return strength.reshape(*strength.shape, *(1,) * (x.dim() - 2)) if strength.dim() else strength


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
        x + strength * noise in the shape, type and layout of ``x``. Differentiable to any order in all three; the first
        gradient is fused (that of ``x`` is the incoming one itself), higher ones in part torch operations. Saves the
        noise, or a seed where it is drawn; and the strength where the noise requires a gradient.

    Raises:
        ValueError: for a shape or device other than those above.
        TypeError: for an integer or complex tensor.
    """
    check_feature_map("noise_injection", x)
    if list(strength.shape) == [1]:
        strength = strength.reshape(())
    check_strength("noise_injection", strength, x)
    if noise is not None:
        shape = x.shape[0], 1, *x.shape[2:]
        if list(noise.shape) == [1, *shape[1:]]:
            noise = noise.expand(shape)
        check_operand("noise_injection", "noise", noise, shape, x)
    seed = draw_seed(x) if noise is None else None
    if not runs_triton(x):
        noise = reference.normal_noise(seed, x) if noise is None else noise
        return reference.noise_injection(guard_second_order(x), strength, noise)
    return _noise_injection(x, strength, noise, seed)
