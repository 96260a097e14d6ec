"""The common part of the passes of norm_act, adain and style_epilogue: the launch, and the tile.

The samples that a statistic spans are a group: all N of them, or one for instance norm. A channel of a group has its
pixels in ``samples`` rows of memory, contiguous or channels-last, and a tile is [channels, samples, pixels] of a group.

What is normalized is z = act(x + strength * noise + bias). Every part except x may be absent: an absent operand is
None, an absent activation "linear". z is computed again wherever x is read again.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import activate, through_activation
from fastgan_kernels.launch import decided_once
from fastgan_kernels.layout import extents, matrix_of
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import NormTiling, alignment, next_power_of_2, norm_tiling

# The strides of scale and shift are specialized: then the compiler knows where several channels are one access.
EXTENTS = ["samples", "minor_groups", "major"]
TILES = ["pixel_tiles", "all_tiles", "tiles", "spans", "statistics"]


class Before(NamedTuple):
    """What comes before the normalization: noise [N, 1, *spatial], strength [C] or [], bias [C]; and an activation."""

    noise: Tensor | None = None
    strength: Tensor | None = None
    bias: Tensor | None = None
    act: str = "linear"

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        return self[:3]


NOTHING = Before()


def norm_launch(
    x: Tensor, groups: int, affine: tuple[Tensor | None, ...], before: Before, act: str, slope: float, eps: float, *,
    reduces: bool, tensors: int, wide: bool = False,
) -> "NormLaunch":  # fmt: skip
    """The launch on a dense, non-empty feature map.

    Args:
        groups: 1 for statistics of the batch, N for statistics per sample.
        affine: scale and shift, [C], [N, C] or ``None``.
        act: the activation after the shift.
        reduces, tensors: as in :func:`norm_tiling`.
        wide: whether a feature map is stored in the type of the arithmetic.
    """
    # A scale for each sample is one for each statistic where the statistics are of samples.
    shape = x.shape
    per_sample = groups < shape[0] and any(t is not None and t.dim() == 2 for t in affine)
    noise, strength, bias, act_before = before
    strength_stride = 0 if strength is None else strength.dim()
    has_before = noise is not None or bias is not None
    settings = act_before, act, slope, eps, reduces, tensors, wide
    return NormLaunch(shape, x.is_contiguous(), x.dtype, groups, per_sample, has_before, strength_stride, *settings)


# Kernels count the pixels of a sample in 32 bits.
_MAX_PIXELS = 2**30


@decided_once
class NormLaunch:
    """The tiling and the arguments that every kernel takes."""

    def __init__(
        self, shape: Sequence[int], is_contiguous: bool, dtype: torch.dtype, groups: int, per_sample: bool,
        has_before: bool, strength_stride: int, act_before: str, act: str, slope: float, eps: float, reduces: bool,
        tensors: int, wide: bool,
    ) -> None:  # fmt: skip
        n, channels = shape[:2]
        samples, pixels = n // groups, math.prod(shape[2:])
        channels_last = matrix_of(shape, is_contiguous).channels_last
        if channels_last and not per_sample and samples * pixels <= _MAX_PIXELS:
            # The pixels of neighboring samples are neighbors.
            samples, pixels = 1, samples * pixels
        minor, major = (channels, pixels) if channels_last else (pixels, channels)
        align = alignment(minor)
        self.tiling: NormTiling = norm_tiling(
            groups, samples, channels, pixels, dtype.itemsize, channels_last=channels_last, reduces=reduces,
            tensors=tensors, before=has_before,
        )  # fmt: skip
        if wide and not self.tiling.resident:
            # A store of 16 bytes, and so every access, has as many elements: otherwise Triton passes a tile from the
            # layout of wider loads to that of the store through shared memory, in a loop.
            align = min(align, 16 // compute_dtype(dtype).itemsize)
        self.per_sample = per_sample
        self.extents = (samples, minor // align, major)
        self.constants = {
            "EPS": eps,
            "ACT_BEFORE": act_before,
            "ACT": act,
            "SLOPE": slope,
            "STRENGTH_STRIDE": strength_stride,
            "PER_SAMPLE": self.per_sample,
            "CHANNELS_LAST": channels_last,
            "COMPUTE": triton_compute_dtype(dtype),
            "ALIGN": align,
            **self.tiling.constants,
        }
        self.of_tiles = (
            self.tiling.pixel_tiles, self.tiling.all_tiles, self.tiling.tiles, self.tiling.spans, groups * channels,
        )  # fmt: skip
        self.folds = {"FOLD": self.tiling.fold}
        self.of_spans = {"SPANS_POWER_OF_2": next_power_of_2(self.tiling.spans)}

    def new_partials(self, x: Tensor, *shape: int) -> Tensor:
        """Memory for ``shape`` numbers of each span."""
        return x.new_empty(*shape, self.tiling.spans, dtype=compute_dtype(x.dtype))


def affine_rows(*tensors: Tensor | None) -> tuple[tuple[Tensor | None, ...], tuple[int, ...]]:
    """Scale and shift with neighboring channels, and their row strides (0 for [C]); rows may lie apart."""
    rows, strides = [], []
    for row in tensors:
        stride = () if row is None else row.stride()
        if stride and stride[-1] != 1:
            row = row.contiguous()
            stride = row.stride()
        rows.append(row)
        strides.append(stride[0] if len(stride) == 2 else 0)
    return tuple(rows), tuple(strides)


class Operands(NamedTuple):
    """In kernels, the pointers of the operands of z, and of scale and shift with their strides between rows."""

    x_ptr: Any
    noise_ptr: Any
    strength_ptr: Any
    bias_ptr: Any
    scale_ptr: Any
    shift_ptr: Any
    scale_stride: Any
    shift_stride: Any


class Channels(NamedTuple):
    """In kernels, the channels of a program.

    Their group, indices in the group and among all statistics, and which exist; the numbers of samples, channels and
    pixels of a group, and of elements of a statistic. Then what is one number for each channel, [channels, 1], 0 or 1
    where it is absent: where each sample has a scale and a shift of its own, those of a tile take the place of the last
    two.
    """

    group: Any
    channel: Any
    index: Any
    exists: Any
    samples: Any
    channels: Any
    pixels: Any
    count: Any
    strength: Any
    bias: Any
    scale: Any
    shift: Any


class Tile(NamedTuple):
    """In kernels, the offsets of a tile [channels, samples, pixels], and which elements exist.

    ``of_noise`` and ``in_noise`` are the same for the noise under it, [1, samples, pixels]; ``sample`` has its samples,
    ``there`` the planes [channels, samples] that exist.
    """

    offset: Any
    mask: Any
    of_noise: Any
    in_noise: Any
    sample: Any
    there: Any


@triton.jit
def channels_of_program(
    operands, samples, minor_groups, major, program, STRENGTH_STRIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    COMPUTE: tl.constexpr, ALIGN: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    channels, pixels = extents(minor_groups, major, ALIGN, CHANNELS_LAST)
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    group = (program // blocks).to(tl.int64)
    channel = program % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    exists = channel < channels
    scale_row, shift_row = group * operands.scale_stride, group * operands.shift_stride
    return Channels(
        group,
        channel,
        group * channels + channel,
        exists,
        samples,
        channels,
        pixels,
        (tl.zeros((), COMPUTE) + samples) * pixels,
        of_channels(operands.strength_ptr, channel * STRENGTH_STRIDE, exists, 0.0, COMPUTE),
        of_channels(operands.bias_ptr, channel, exists, 0.0, COMPUTE),
        of_channels(operands.scale_ptr, scale_row + channel, exists, 1.0, COMPUTE),
        of_channels(operands.shift_ptr, shift_row + channel, exists, 0.0, COMPUTE),
    )


@triton.jit
def of_channels(ptr, offset, exists, DEFAULT: tl.constexpr, COMPUTE: tl.constexpr):
    """A number for each channel, [channels, 1]."""
    if ptr is None:
        return tl.full([offset.shape[0], 1], DEFAULT, COMPUTE)
    else:
        return tl.load(ptr + offset, mask=exists, other=0.0).to(COMPUTE)[:, None]


@triton.jit
def last_program_first():
    """The indices of a program in a pass that runs backwards: first what the pass before read last, still in L2.

    Within a span tiles run backwards too: where all programs run at once, each has just read its last tiles.
    """
    return tl.num_programs(0) - 1 - tl.program_id(0), tl.num_programs(1) - 1 - tl.program_id(1)


@triton.jit
def tile_of_channels(
    block, tile, pixel_tiles, CHANNELS_LAST: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr
):
    """A tile of the channels of a program, one of ``pixel_tiles`` for each of its blocks of samples."""
    sample = tile // pixel_tiles * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    pixel = tile % pixel_tiles * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    there = block.exists[:, None] & (sample < block.samples)[None, :]
    mask = (pixel < block.pixels)[None, None, :]
    in_noise = mask
    # A single sample and a single plane always exist.
    if BLOCK_SAMPLES > 1:
        in_noise = (sample < block.samples)[None, :, None] & mask
    if block.channel.shape[0] * BLOCK_SAMPLES > 1:
        mask = there[:, :, None] & mask
    sample = block.group * block.samples + sample
    if CHANNELS_LAST:
        first = (sample * block.channels * block.pixels)[None, :] + block.channel[:, None]
        offset = first[:, :, None] + (pixel.to(tl.int64) * block.channels)[None, None, :]
    else:
        first = (sample[None, :] * block.channels + block.channel[:, None]) * block.pixels
        offset = first[:, :, None] + pixel[None, None, :]
    of_noise = (sample * block.pixels)[None, :, None] + pixel[None, None, :]
    return Tile(offset, mask, of_noise, in_noise, sample, there)


@triton.jit
def over_pixels(of_planes):
    """Reshapes one number per plane [channels, samples or 1] to broadcast over a tile; for a single plane to a scalar.

    Triton (3.6 to 3.8) would pass a tensor of one element to every pixel through shared memory.
    """
    if of_planes.shape[0] * of_planes.shape[1] == 1:
        return tl.sum(tl.sum(of_planes, axis=1), axis=0)
    else:
        return of_planes[:, :, None]


@triton.jit
def sum_of_channels(of_tile):
    """[channels] from a tile."""
    return tl.sum(tl.sum(of_tile, axis=2), axis=1)


@triton.jit
def folded(of_tile, FOLD: tl.constexpr):
    """Sums of ``FOLD`` elements of a tile each, [channels, lanes]: of those that one thread has."""
    channels: tl.constexpr = of_tile.shape[0]
    lanes: tl.constexpr = of_tile.shape[1] * of_tile.shape[2] // FOLD
    return tl.sum(tl.reshape(of_tile, [channels, FOLD, lanes]), axis=1)


@triton.jit
def of_tile(ptr, stride, of_group, block, tile, PER_SAMPLE: tl.constexpr):
    """The number of each plane of a tile [channels, samples] where samples have their own, else that of the group."""
    if PER_SAMPLE and ptr is not None:
        pointers = ptr + (tile.sample[None, :] * stride + block.channel[:, None])
        return tl.load(pointers, mask=tile.there, other=0.0).to(of_group.dtype)
    else:
        return of_group


@triton.jit
def affine_of(operands, block, tile, PER_SAMPLE: tl.constexpr):
    """Scale and shift of the planes of a tile."""
    scale = of_tile(operands.scale_ptr, operands.scale_stride, block.scale, block, tile, PER_SAMPLE)
    return scale, of_tile(operands.shift_ptr, operands.shift_stride, block.shift, block, tile, PER_SAMPLE)


@triton.jit
def planes_of(block, tile):
    """The index of each plane of a tile, [channels, samples]."""
    return tile.sample[None, :] * block.channels + block.channel[:, None]


@triton.jit
def statistics_of(mean_ptr, var_ptr, block, EPS: tl.constexpr, COMPUTE: tl.constexpr):
    """The mean and 1 / sqrt(var + eps) of each channel, [channels, 1]."""
    mean = tl.load(mean_ptr + block.index, mask=block.exists, other=0.0).to(COMPUTE)
    var = tl.load(var_ptr + block.index, mask=block.exists, other=0.0).to(COMPUTE)
    return mean[:, None], tl.rsqrt(var + tl.full((), EPS, COMPUTE))[:, None]


@triton.jit
def noise_of(operands, tile, COMPUTE: tl.constexpr):
    return tl.load(operands.noise_ptr + tile.of_noise, mask=tile.in_noise, other=0.0).to(COMPUTE)


@triton.jit
def input_tile(operands, block, tile, ACT_BEFORE: tl.constexpr, SLOPE: tl.constexpr, COMPUTE: tl.constexpr):
    """z of a tile, and the noise under it, zeros if there is none. Elements of z outside of the mask are not 0."""
    noise = tl.zeros([1, 1, 1], COMPUTE)
    # The noise is loaded first: then Triton converts it to the layout of x, not x to that of the noise.
    if operands.noise_ptr is not None:
        noise = noise_of(operands, tile, COMPUTE)
    z = tl.load(operands.x_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    if operands.noise_ptr is not None:
        z += over_pixels(block.strength) * noise
    if operands.bias_ptr is not None:
        z += over_pixels(block.bias)
    return activate(z, ACT_BEFORE, SLOPE, COMPUTE), noise


@triton.jit
def backward_tile(
    dy_ptr, operands, block, mean, rstd, tile, ACT_BEFORE: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    PER_SAMPLE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Of a tile g (dy times the derivative of the activation after), z - mean, z, the input of the activation after.

    And the scale of its planes, and the noise. Outside of the mask g is 0, the others are not.
    """
    g = tl.load(dy_ptr + tile.offset, mask=tile.mask, other=0.0).to(COMPUTE)
    z, noise = input_tile(operands, block, tile, ACT_BEFORE, SLOPE, COMPUTE)
    scale, shift = affine_of(operands, block, tile, PER_SAMPLE)
    deviation = z - over_pixels(mean)
    p = deviation * over_pixels(scale * rstd) + over_pixels(shift)
    return through_activation(g, p, ACT, SLOPE, COMPUTE), deviation, z, p, scale, noise


@triton.jit
def store(ptr, offset, value, mask):
    """Stores an output, unless it is not needed and None."""
    if ptr is not None:
        tl.store(ptr + offset, value, mask=mask)


@triton.jit
def store_sums(sums_ptr, k, statistics, spans, span, block, lanes):
    """Stores the ``k``-th sum of a span, of all lanes of each channel: [k, statistics, spans]."""
    offset = (k * statistics.to(tl.int64) + block.index) * spans + span
    tl.store(sums_ptr + offset, tl.sum(lanes, axis=1), mask=block.exists)


@triton.jit
def mean_over_spans(sums_ptr, k, statistics, spans, block, SPANS_POWER_OF_2: tl.constexpr):
    """The mean of the ``k``-th sum of each channel, from the partials [k, statistics, spans]: [channels, 1]."""
    span = tl.arange(0, SPANS_POWER_OF_2)
    offset = (k * statistics.to(tl.int64) + block.index)[:, None] * spans + span[None, :]
    mask = block.exists[:, None] & (span < spans)[None, :]
    sums = tl.sum(tl.load(sums_ptr + offset, mask=mask, other=0.0), axis=1)
    if sums.shape[0] == 1:
        # Reduced to a scalar first: otherwise every thread loads all spans, so that they have the layout of the tile.
        sums = tl.zeros([1], sums.dtype) + tl.sum(sums, axis=0)
    return (sums / block.count)[:, None]
