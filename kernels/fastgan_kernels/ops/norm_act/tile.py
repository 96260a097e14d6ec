"""The common part of the passes of norm_act: how the problem is cut into tiles, and the tile.

The samples that a statistic spans are a group: all N of them, or one for instance norm. A channel of a group has its
pixels in ``samples`` rows of memory, contiguous or channels-last, and a tile is [channels, samples, pixels] of a group.
"""

import functools
import math
from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from fastgan_kernels.activation import through_activation
from fastgan_kernels.layout import as_matrix
from fastgan_kernels.precision import compute_dtype, triton_compute_dtype
from fastgan_kernels.tiling import alignment, cdiv, next_power_of_2


@dataclass(frozen=True)
class NormTiling:
    """How the channels of all groups are shared among programs.

    Attributes:
        block_channels, block_samples, block_pixels: the extents of a tile.
        pixel_tiles: tiles per sample, along its pixels.
        all_tiles: tiles per channel of a group.
        spans: number of spans that these are cut into, with one program each.
        tiles: tiles per span.
        resident: whether there is one tile, which stays in registers and is read once.
        channel_programs: number of blocks of ``block_channels`` channels, over all groups.
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
    num_warps: int

    @property
    def grid(self) -> tuple[int, int]:
        return (self.channel_programs, self.spans)


@functools.lru_cache(maxsize=1024)
def norm_tiling(
    groups: int, samples: int, channels: int, pixels: int, element_size: int, *, channels_last: bool, reduces: bool,
    tile: int = 4096,
) -> NormTiling:  # fmt: skip
    """Tiles for a pass over [groups, samples, channels, pixels] with statistics of each channel of a group.

    Args:
        groups, samples, channels, pixels: the problem; each at least 1.
        element_size: bytes of an element.
        channels_last: channels, not pixels, are neighbors in memory.
        reduces: whether the pass reduces channels before it writes, so that a resident tile saves a read.
        tile: elements of a tile that is not resident.
    """
    # What fits the registers of 512 threads, as in plane_tiling.
    capacity = (8192 if channels_last else 16384) if element_size <= 4 else (2048 if channels_last else 4096)
    block_samples, block_pixels = next_power_of_2(samples), next_power_of_2(pixels)
    if channels_last:
        # Every access has whole sectors, of 32 bytes; two of them if the channel then still stays resident.
        strips = [min(next_power_of_2(channels), strip // element_size) for strip in (64, 32)]
    else:
        # One channel; of small images as many as fill a sector.
        strips = [min(next_power_of_2(channels), max(1, 32 // (block_pixels * element_size)))]
    for block_channels in strips if reduces else ():
        elements = block_channels * block_samples * block_pixels
        if elements <= capacity:
            if not channels_last:
                # Short channels share a tile, as long as every multiprocessor of a large chip (132) has one.
                fair_share = next_power_of_2(cdiv(groups * channels, 256))
                more = max(1, min(4096 // elements, fair_share // block_channels, next_power_of_2(channels)))
                block_channels, elements = block_channels * more, elements * more
            programs = groups * cdiv(channels, block_channels)
            num_warps = min(max(elements // 512, 2), 16)
            return NormTiling(block_channels, block_samples, block_pixels, 1, 1, 1, 1, True, programs, num_warps)
    # 16 elements per thread at eight warps, 4 in float64.
    tile = tile if element_size <= 4 else tile // 4
    block_channels = strips[0]
    block_pixels = min(block_pixels, tile // block_channels)
    block_samples = min(block_samples, tile // (block_channels * block_pixels))
    pixel_tiles = cdiv(pixels, block_pixels)
    all_tiles = pixel_tiles * cdiv(samples, block_samples)
    programs = groups * cdiv(channels, block_channels)
    # Eight programs per multiprocessor of a large chip are enough, with at least two tiles each. Each reads the
    # partials of all spans of its channels; up to the root of the number of tiles that is little beside its own tiles.
    most_spans = min(256, max(64, math.isqrt(4 * all_tiles)), max(2, cdiv(8 * 132, programs)))
    tiles = min(all_tiles, max(2, cdiv(all_tiles, most_spans)))
    return NormTiling(
        block_channels, block_samples, block_pixels, pixel_tiles, all_tiles, cdiv(all_tiles, tiles), tiles,
        resident=False, channel_programs=programs, num_warps=8,
    )  # fmt: skip


class NormLaunch:
    """A dense, non-empty feature map, its tiling, and the arguments that every kernel takes.

    Args:
        groups: 1 for statistics of the batch, N for statistics per sample.
        per_sample: whether scale and shift are [N, C].
        reduces, tile: as in :func:`norm_tiling`.
    """

    def __init__(
        self, x: Tensor, groups: int, per_sample: bool, act: str, slope: float, eps: float, *, reduces: bool,
        tile: int = 4096,
    ) -> None:  # fmt: skip
        n, channels = x.shape[:2]
        pixels = math.prod(x.shape[2:])
        channels_last = as_matrix(x).channels_last
        minor, major = (channels, pixels) if channels_last else (pixels, channels)
        align = alignment(minor)
        self.tiling = tiling = norm_tiling(
            groups, n // groups, channels, pixels, x.element_size(), channels_last=channels_last, reduces=reduces,
            tile=tile,
        )  # fmt: skip
        self.extents = (n // groups, minor // align, major)
        self.constants = {
            "EPS": eps,
            "ACT": act,
            "SLOPE": slope,
            "PER_SAMPLE": per_sample,
            "CHANNELS_LAST": channels_last,
            "COMPUTE": triton_compute_dtype(x.dtype),
            "ALIGN": align,
            "BLOCK_CHANNELS": tiling.block_channels,
            "BLOCK_SAMPLES": tiling.block_samples,
            "BLOCK_PIXELS": tiling.block_pixels,
            "num_warps": tiling.num_warps,
        }
        self.of_tiles = (tiling.pixel_tiles, tiling.all_tiles, tiling.tiles)
        self.of_spans = {"SPANS": tiling.spans, "SPANS_POWER_OF_2": next_power_of_2(tiling.spans)}

    def new_partials(self, x: Tensor, count: int) -> Tensor:
        """Memory for ``count`` numbers of each span."""
        return x.new_empty(count, self.tiling.spans, dtype=compute_dtype(x.dtype))


@triton.jit
def channels_of_program(channels, BLOCK_CHANNELS: tl.constexpr):
    """The group and channels of a program, and the indices of their statistics, [groups, channels]."""
    blocks = tl.cdiv(channels, BLOCK_CHANNELS)
    group = (tl.program_id(0) // blocks).to(tl.int64)
    channel = tl.program_id(0) % blocks * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return group, channel, group * channels + channel


@triton.jit
def tile_of_channels(
    tile, group, channel, samples, channels, pixels, pixel_tiles,
    CHANNELS_LAST: tl.constexpr, BLOCK_SAMPLES: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Offsets of a tile and which elements exist; its samples, and which planes [channels, samples] exist."""
    sample = tile // pixel_tiles * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    pixel = tile % pixel_tiles * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    there = (channel < channels)[:, None] & (sample < samples)[None, :]
    mask = (pixel < pixels)[None, None, :]
    # A single plane always exists.
    if channel.shape[0] * BLOCK_SAMPLES > 1:
        mask = there[:, :, None] & mask
    sample = group * samples + sample
    if CHANNELS_LAST:
        first = (sample * channels * pixels)[None, :] + channel[:, None]
        offset = first[:, :, None] + (pixel.to(tl.int64) * channels)[None, None, :]
    else:
        first = (sample[None, :] * channels + channel[:, None]) * pixels
        offset = first[:, :, None] + pixel[None, None, :]
    return offset, mask, sample, there


@triton.jit
def over_pixels(of_planes):
    """Reshapes one number per plane [channels, samples or 1] to broadcast over a tile; for a single plane to a scalar.

    Triton would pass a tensor of one element to every pixel through shared memory (layout.over_pixels).
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
def of_planes(
    ptr, stride, sample, channel, channels, there, DEFAULT: tl.constexpr, PER_SAMPLE: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """A scale, a shift or the cotangent of one, [channels, samples or 1]; ``DEFAULT`` where there is none."""
    if ptr is None:
        return tl.full([channel.shape[0], 1], DEFAULT, COMPUTE)
    elif PER_SAMPLE:
        return tl.load(ptr + (sample[None, :] * stride + channel[:, None]), mask=there, other=0.0).to(COMPUTE)
    else:
        return tl.load(ptr + channel, mask=channel < channels, other=0.0).to(COMPUTE)[:, None]


@triton.jit
def statistics_of(mean_ptr, var_ptr, index, exists, EPS: tl.constexpr, COMPUTE: tl.constexpr):
    """The mean and 1 / sqrt(var + eps) of each channel, [channels, 1]."""
    mean = tl.load(mean_ptr + index, mask=exists, other=0.0).to(COMPUTE)
    var = tl.load(var_ptr + index, mask=exists, other=0.0).to(COMPUTE)
    return mean[:, None], tl.rsqrt(var + tl.full((), EPS, COMPUTE))[:, None]


@triton.jit
def normalized_tile(
    x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride, offset, mask, sample, channel, channels, there, mean, rstd,
    PER_SAMPLE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The deviation x - mean of a tile, the scale of its planes, and the activation's input."""
    deviation = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE) - over_pixels(mean)
    weight = of_planes(weight_ptr, weight_stride, sample, channel, channels, there, 1.0, PER_SAMPLE, COMPUTE)
    bias = of_planes(bias_ptr, bias_stride, sample, channel, channels, there, 0.0, PER_SAMPLE, COMPUTE)
    return deviation, weight, deviation * over_pixels(weight * rstd) + over_pixels(bias)


@triton.jit
def backward_tile(
    dy_ptr, x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride,
    offset, mask, sample, channel, channels, there, mean, rstd,
    ACT: tl.constexpr, SLOPE: tl.constexpr, PER_SAMPLE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """g (dy times the activation's derivative), xh and the activation's input of a tile, and the scale of its planes.

    Outside of the mask g is 0, xh is not.
    """
    deviation, weight, p = normalized_tile(
        x_ptr, weight_ptr, bias_ptr, weight_stride, bias_stride, offset, mask, sample, channel, channels, there,
        mean, rstd, PER_SAMPLE, COMPUTE,
    )  # fmt: skip
    g = tl.load(dy_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
    return through_activation(g, p, ACT, SLOPE, COMPUTE), deviation * over_pixels(rstd), p, weight


@triton.jit
def means_over_spans(
    sums_ptr, k, statistics, index, exists, count, SPANS: tl.constexpr, SPANS_POWER_OF_2: tl.constexpr
):
    """The mean of the ``k``-th sum of each channel, from the partials [k, statistics, SPANS]: [channels, 1]."""
    span = tl.arange(0, SPANS_POWER_OF_2)
    offset = (k * statistics.to(tl.int64) + index)[:, None] * SPANS + span[None, :]
    mask = exists[:, None] & (span < SPANS)[None, :]
    sums = tl.sum(tl.load(sums_ptr + offset, mask=mask, other=0.0), axis=1)
    if sums.shape[0] == 1:
        # Reduced to a scalar first: otherwise every thread loads all spans, so that they have the layout of the tile.
        sums = tl.zeros([1], sums.dtype) + tl.sum(sums, axis=0)
    return (sums / count)[:, None]
