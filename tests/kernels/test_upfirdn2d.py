"""What is particular to upfirdn2d; the rest of its tests are in test_every_op.py."""

import importlib
import itertools
import math
from dataclasses import astuple, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import reference, upfirdn2d, use_backend
from fastgan_kernels.tiling import StripTiling, band_tiling, cdiv, strip_tiling
from tests.kernels.harness import DEVICE, FLOAT_TYPES, derivatives, lay_out, random, tiered

# The package exports the function under the name of its module.
upfirdn2d_module = importlib.import_module("fastgan_kernels.ops.upfirdn2d")

BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64, device=DEVICE) / 8
LAYOUTS = ("contiguous", "channels_last")
BLUR = {"padding": [2, 1, 2, 1]}
DOUBLING = {"up": 2, "padding": [2, 1, 2, 1]}


def by_definition(
    x: Tensor, kernel: Tensor | None, *, up: int | tuple[int, int] = 1, down: int | tuple[int, int] = 1,
    padding: list[int], gain: float = 1.0, flip: bool = False,
) -> Tensor:  # fmt: skip
    """Sums of Python numbers over the taps, from the definition in the module's docstring."""
    left, right, top, bottom = padding
    (up_x, up_y), (down_x, down_y) = ((f, f) if isinstance(f, int) else f for f in (up, down))
    kernel = torch.ones(1, 1) if kernel is None else kernel
    (h, w), (kh, kw) = x.shape[2:], kernel.shape
    out_h, out_w = (h * up_y + top + bottom - kh) // down_y + 1, (w * up_x + left + right - kw) // down_x + 1

    def pixel(s: int, t: int) -> Tensor:
        exists = 0 <= s < h * up_y and 0 <= t < w * up_x and s % up_y == 0 and t % up_x == 0
        return x[:, :, s // up_y, t // up_x] if exists else x[:, :, 0, 0] * 0

    y = x.new_empty(*x.shape[:2], out_h, out_w)
    for i, j in itertools.product(range(out_h), range(out_w)):
        y[:, :, i, j] = gain * sum(
            (kernel[a, b] if flip else kernel[kh - 1 - a, kw - 1 - b])
            * pixel(down_y * i + a - top, down_x * j + b - left)
            for a, b in itertools.product(range(kh), range(kw))
        )
    return y


def assert_as_defined(kernel: Tensor | None, layout: str, **settings) -> None:
    """The output and both orders of gradients, within a few roundings."""
    x = lay_out(random((2, 3, 4, 5), 1), layout)
    cotangents = [random(by_definition(x, kernel, **settings).shape, 3), random(x.shape, 4)]
    found, expected = (
        derivatives(partial(f, kernel=kernel, **settings), [x], cotangents) for f in (upfirdn2d, by_definition)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("up", "down", "layout"),
    [
        tiered(up, down, layout, plain=(up + down) % 2 == i)
        for up, down in itertools.product((1, 2, 3), repeat=2)
        for i, layout in enumerate(LAYOUTS)
    ],
)
def test_values_and_both_orders_from_the_definition(up: int, down: int, layout: str):
    for (kh, kw), padding in (
        ((1, 1), [0, 0, 0, 0]),
        ((2, 3), [3, 1, 2, 4]),
        ((5, 4), [2, 3, 6, 1]),
        ((4, 2), [-1, 2, 5, -2]),
        ((1, 5), [5, 4, -1, -1]),
    ):
        assert_as_defined(random((kh, kw), 2), layout, up=up, down=down, padding=padding, gain=1.5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "tiling",
    [
        StripTiling(4, 4, 2, 2, 2, 4, 0, 1),
        StripTiling(8, 2, 1, 2, 8, 2, 0, 2),
        StripTiling(2, 4, 4, 1, 4, 4, 0, 1),
        StripTiling(2, 2, 3, 16, 1, 16, 0, 1),
        StripTiling(4, 2, 1, 8, 32, 1, 0, 8),
    ],
    ids=lambda t: f"{t.rows}x{t.cols}x{t.turns}x{t.block_strips}x{t.block_groups}x{t.block_channels}",
)
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2)])
def test_every_tile_computes_the_same(
    monkeypatch: pytest.MonkeyPatch, up: int, down: int, tiling: StripTiling, layout: str
):
    """Chosen by hand: long strips are for sizes that would take the interpreter minutes."""

    def tile(
        images: int, channels: int, height: int, width: int, *_: int, channels_last: bool, **__: Any
    ) -> StripTiling:
        t = tiling if channels_last else replace(tiling, block_channels=1)
        return replace(t, programs=programs_of(t, images, channels, height, width))

    monkeypatch.setattr(upfirdn2d_module, "strip_tiling", tile)
    x, kernel = lay_out(random((2, 3, 17, 9), 1), layout), random((4, 3), 2)
    settings = {"up": up, "down": down, "padding": [1, 2, 2, 1]}
    torch.testing.assert_close(upfirdn2d(x, kernel, **settings), reference.upfirdn2d(x, kernel, **settings))


def programs_of(t: StripTiling, images: int, channels: int, height: int, width: int) -> int:
    """The tiles that an output needs."""
    strips = images * cdiv(height, t.rows * t.turns)
    tiles = cdiv(strips, t.block_strips), cdiv(width, t.cols * t.block_groups), cdiv(channels, t.block_channels)
    return math.prod(tiles)


def tile_of_a_large_problem(images: int, channels: int, height: int, width: int, *args: int, **kwargs) -> StripTiling:
    """The tiles that a batch 1024 times as large has, as many as the batch itself needs."""
    t = strip_tiling(1024 * images, channels, height, width, *args, **kwargs)
    return replace(t, programs=programs_of(t, images, channels, height, width))


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("shape", "layout", "dtype", "taps", "settings", "accesses", "programs"),
    [
        # A blur of four taps loads three groups of columns for one, and 36 rows for 32 of output (turns have two rows);
        # channels-last five columns for two, and 20 rows for 16.
        ((1, 1, 128, 128), "contiguous", torch.float32, 4, BLUR, (2.15, 2.15), (1.0, 1.0)),
        tiered((1, 8, 64, 64), "contiguous", torch.bfloat16, 3, {"padding": 1}, (2.1, 2.1), (1.0, 1.0), plain=False),
        ((1, 32, 64, 64), "channels_last", torch.bfloat16, 4, BLUR, (1.95, 1.95), (1.05, 1.05)),
        # Rows of odd length start anywhere within a sector, so columns are loaded one by one.
        tiered((1, 1, 129, 129), "contiguous", torch.bfloat16, 4, {"padding": 1}, (4.7, 3.5), (1.05, 1.4), plain=False),
        # Up, and down in the backward pass.
        tiered((1, 4, 32, 32), "contiguous", torch.float32, 4, DOUBLING, (1.5, 3.6), (1.0, 1.0), plain=False),
        tiered((1, 16, 32, 32), "channels_last", torch.float32, 4, DOUBLING, (1.45, 1.5), (1.0, 1.0), plain=False),
    ],
)
def test_traffic_of_a_large_problem(
    monkeypatch: pytest.MonkeyPatch, shape, layout: str, dtype: torch.dtype, taps: int, settings, accesses, programs
):
    """Multiples of the floor, forward and backward: what threads load, and what leaves the first level of cache."""
    monkeypatch.setattr(upfirdn2d_module, "strip_tiling", tile_of_a_large_problem)
    x, kernel = lay_out(random(shape, 1, dtype), layout).requires_grad_(), random((taps, taps), 2, torch.float32)
    for per, bars in (("access", accesses), ("program", programs)):
        with count_traffic(per) as traffic:
            y = upfirdn2d(x, kernel, **settings)
        forward = traffic.over_minimum(x, inputs=[x, kernel], outputs=[y])
        dy = torch.ones_like(y)
        with count_traffic(per) as traffic:
            (dx,) = torch.autograd.grad(y, x, dy)
        backward = traffic.over_minimum(x, inputs=[dy, kernel], outputs=[dx])
        assert 1 <= forward.ratio <= bars[0], (per, forward)
        assert 1 <= backward.ratio <= bars[1], (per, backward)
        assert forward.apart == backward.apart == 0


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_kernel_of_one_pixel_changes_nothing(dtype: torch.dtype, backend: str):
    x = random((2, 3, 5, 4), 1, dtype)
    with use_backend(backend):
        assert torch.equal(upfirdn2d(x, torch.ones(1, 1, device=DEVICE)), x)
        assert torch.equal(
            upfirdn2d(x, torch.ones(1, device=DEVICE), padding=[1, -1, -2, 2])[:, :, :3, 1:], x[:, :, 2:, :-1]
        )


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_vector_means_its_outer_product(backend: str):
    x, taps = random((2, 3, 6, 5), 1), random((3,), 2)
    settings = {"up": 2, "padding": [1, 2, 0, 1], "gain": 4.0}
    with use_backend(backend):
        found, expected = upfirdn2d(x, taps, **settings), upfirdn2d(x, torch.outer(taps, taps), **settings)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
def test_the_kernel_keeps_its_own_type(dtype: torch.dtype):
    """A tap of float32 is not rounded to the type of x: 1 + 2^-20 times -1, and 1 added, is -2^-20."""
    kernel = torch.tensor([[1.0, 1 + 2**-20]], device=DEVICE)
    x = torch.tensor([-1.0, 1.0], dtype=dtype, device=DEVICE).view(1, 1, 1, 2)
    assert upfirdn2d(x, kernel).item() == pytest.approx(-(2**-20), rel=1e-2)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (2, 3, 0, 0)])
def test_an_image_without_pixels(shape: tuple[int, ...], backend: str):
    x = torch.zeros(shape, device=DEVICE, requires_grad=True)
    with use_backend(backend):
        y = upfirdn2d(x, BINOMIAL, up=2, padding=3)
        assert y.shape == (*shape[:2], 2 * shape[2] + 3, 2 * shape[3] + 3)
        assert not y.any()
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, r"x has shape \[2, 3, 4\], expected \[N, C, H, W\]"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int32)}, "x is torch.int32, expected float16"),
        ({"kernel": torch.zeros(2, 2, 2)}, r"kernel has shape \[2, 2, 2\], expected \[kh, kw\] or \[k\]"),
        ({"kernel": torch.zeros(0, 3)}, r"kernel has shape \[0, 3\]"),
        ({"kernel": torch.zeros(3, 3, dtype=torch.int64)}, "kernel is torch.int64"),
        ({"kernel": torch.zeros(3, 3, device="meta")}, "kernel is on meta and x on cpu"),
        ({"kernel": torch.zeros(3, 3, requires_grad=True)}, "kernel requires a gradient, expected a constant"),
        ({"up": 0}, "up is 0, expected an integer of at least 1"),
        ({"down": 1.5}, "down is 1.5, expected an integer of at least 1"),
        ({"up": (2, 0)}, r"up is \(2, 0\), expected an integer of at least 1 or two of them"),
        ({"padding": [1, 2, 3]}, r"padding is \[1, 2, 3\], expected an integer, \(x, y\) or \(left, right, top"),
        ({"padding": 0.5}, "padding is 0.5, expected an integer, "),
        ({"gain": float("nan")}, "gain is nan, expected a finite number"),
        ({"kernel": torch.zeros(5, 1)}, r"kernel is \[5, 1\], expected at most \[4, 4\], the image after padding"),
        ({"padding": [0, 0, -2, 0]}, r"kernel is \[3, 3\], expected at most \[2, 4\], the image after padding"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        upfirdn2d(**{"x": torch.zeros(2, 3, 4, 4), "kernel": torch.zeros(3, 3), **arguments})


@pytest.mark.parametrize("ops", ["triton", "reference"])
def test_a_penalty_outside_of_a_compiled_op_is_refused(ops: str):
    x = random((1, 1, 4, 4), 0).requires_grad_()
    blur = torch.compile(lambda x: upfirdn2d(x, BINOMIAL, padding=2), backend="aot_eager")
    with use_backend(ops), pytest.raises(RuntimeError, match="do not compile the penalized network"):
        torch.autograd.grad(blur(x).square().sum(), x, create_graph=True)


def test_compiles_for_any_size():
    compiled = torch.compile(lambda x: upfirdn2d(x, BINOMIAL, **DOUBLING), dynamic=True, fullgraph=True)
    for size in (4, 6, 9):
        x = random((2, 3, size, size + 1), size).requires_grad_()
        results = [
            (y, *torch.autograd.grad(y.square().sum(), x))
            for y in (compiled(x), reference.upfirdn2d(x, BINOMIAL, **DOUBLING))
        ]
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize(
    ("kernel", "settings"),
    [
        ((3, 2), {"up": (2, 1), "down": (1, 3), "padding": [2, 1, 3, 2]}),
        ((1, 4), {"up": (1, 1), "down": (2, 1), "padding": [1, 1, 0, 0], "flip": True}),
        ((4, 1), {"up": (1, 3), "padding": [0, -1, 2, 1], "flip": True}),
        (None, {"up": (3, 2), "down": (2, 2), "padding": [1, -2, 0, 2], "gain": 2.0}),
    ],
    ids=str,
)
def test_axes_of_their_own_from_the_definition(kernel, settings: dict, backend: str, layout: str):
    """Other factors in x than in y, kernels of one row or column, as they are or turned around, and none."""
    kernel = None if kernel is None else random(kernel, 2)
    with use_backend(backend):
        assert_as_defined(kernel, layout, **settings)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "taps", "settings"),
    [
        # Up and down and, in the gradient, the other way, by separable filters and by planes.
        ((1, 2, 20, 40), (12,), {"up": 2, "padding": (6, 5, 6, 5), "gain": 4.0}),
        tiered((1, 2, 12, 20), (24,), {"up": 4, "padding": (13, 12, 11, 14), "flip": True}, plain=False),
        ((1, 2, 13, 21), (5, 7), {"up": 2, "down": 3, "padding": (2, 3, 4, 5)}),
        ((1, 2, 24, 23), (12, 12), {"down": 2, "padding": (5, 5, 5, 5), "flip": True}),
        # One axis at a time; images of less than a tile, of several tiles, and cropped.
        ((1, 1, 6, 200), (1, 20), {"up": (1, 2), "down": (2, 1), "padding": (9, 9, 1, -1)}),
        ((1, 2, 70, 5), (20, 1), {"up": (2, 1), "down": (1, 3), "padding": (0, -2, 9, 9)}),
        tiered((3, 2, 2, 1), (30,), {"padding": (15, 14, 14, 15)}, plain=False),
    ],
    ids=str,
)
def test_long_filters_by_band_matrices(shape, taps, settings: dict, layout: str):
    """In float32, to 1e-5 of the largest; in float64 the gradient's kernel, a loop over taps, to 1e-12."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        if dtype == torch.float64 and math.prod(taps) * math.prod(shape) > 20000:
            continue  # the interpreter takes a minute
        kernel = random(taps, 2, torch.float32)
        results = []
        for f in (upfirdn2d, reference.upfirdn2d):
            x = lay_out(random(shape, 1, dtype), layout).requires_grad_()
            y = f(x, kernel, **settings)
            results.append((y, *torch.autograd.grad(y, x, random(y.shape, 3, dtype))))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


def test_which_kernel_a_filter_takes():
    """Unrolled to sixteen taps; by matrices as long as one holds the window; else by a loop."""

    def tiling(width: int, taps: int, up: int, down: int, **settings: bool) -> tuple[int, ...] | None:
        settings = {"separable": True, "channels_last": False} | settings
        t = band_tiling(256, width, 4, taps, up=(up, up), down=(down, down), **settings)
        return t and (t.rows, t.block_in, t.block_out, t.step)

    assert tiling(256, 12, 1, 1) == (32, 64, 64, 40)
    assert tiling(512, 12, 2, 1) == (32, 64, 128, 96)
    assert tiling(256, 12, 1, 2) == (32, 128, 64, 48)
    assert tiling(256, 24, 1, 4) == (32, 128, 64, 24)
    assert tiling(256, 12, 1, 2, separable=False) == (16, 64, 32, 16)
    assert tiling(256, 12, 2, 1, channels_last=True) == (16, 64, 128, 116)
    assert tiling(256, 57, 1, 1) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("shape", "dtype", "layout", "taps", "settings"),
    [
        ((1, 8, 128, 128), torch.float32, "contiguous", 12, {"up": 2, "padding": (6, 5, 6, 5)}),
        ((1, 4, 256, 256), torch.float32, "contiguous", 12, {"down": 2, "padding": 5}),
        ((1, 4, 256, 256), torch.float32, "contiguous", 24, {"down": 4, "padding": 10}),
        ((1, 32, 64, 64), torch.float32, "channels_last", 12, {"up": 2, "padding": (6, 5, 6, 5)}),
    ],
    ids=str,
)
def test_traffic_of_long_filters(shape, dtype: torch.dtype, layout: str, taps: int, settings: dict):
    """Past the first level of cache each pixel moves once, but for the windows of neighboring tiles, which overlap."""
    x, kernel = lay_out(random(shape, 1, dtype), layout), random((taps,), 2, torch.float32)
    with count_traffic("program") as traffic:
        y = upfirdn2d(x, kernel, **settings)
    (launch,) = traffic.launches
    up, down = settings.get("up", 1), settings.get("down", 1)
    t = band_tiling(
        *y.shape[2:], x.element_size(), taps, separable=True, up=(up, up), down=(down, down),
        channels_last=layout == "channels_last",
    )  # fmt: skip
    # What lies around a tile of input: the rest of the windows of its last row and column, and a sector to start with.
    rows, cols = t.rows * down, t.step * down / up
    around = (1 + taps / up / rows) * (1 + (taps / up + 2 * (t.align - 1)) / cols)
    moved = launch.tensors["x_ptr"].loaded / around + launch.tensors["y_ptr"].stored
    assert moved <= 1.1 * (x.nbytes + y.nbytes)
    assert launch.tensors["x_ptr"].loaded >= x.nbytes


def test_one_number_pairs_and_integers_of_numpy():
    x, kernel = random((1, 2, 6, 5), 1), random((3, 3), 2)
    expected = upfirdn2d(x, kernel, up=2, down=2, padding=[1, 1, 2, 2])
    two = np.int64(2)
    assert torch.equal(upfirdn2d(x, kernel, up=two, down=(2, two), padding=(1, np.int32(2))), expected)
    assert torch.equal(upfirdn2d(x, kernel, padding=np.int64(1)), upfirdn2d(x, kernel, padding=[1, 1, 1, 1]))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("element_size", [2, 4, 8])
def test_tiles_cover_the_output(element_size: int, channels_last: bool):
    sizes = (1, 2, 3, 5, 8, 17, 33, 64, 257, 1024, 5000)
    for images, channels, height, width in itertools.product((1, 3, 64), (1, 3, 40, 513), sizes, sizes):
        for up, down in ((1, 1), (2, 1), (1, 2), (4, 2), (1, 4)):
            channels = channels if channels_last else 1
            factors = {"up": (up, up), "down": (down, down)}
            t = strip_tiling(images, channels, height, width, element_size, **factors, channels_last=channels_last)
            assert t.programs == programs_of(t, images, channels, height, width)
            assert t.rows % up == t.cols % up == 0
            for n in astuple(replace(t, turns=1, programs=1)):
                assert n & (n - 1) == 0
            assert t.turns <= 32
            assert t.num_warps <= 8


def test_regimes_of_strips():
    def tile(*sizes: int, channels_last: bool = False, up: int = 1, down: int = 1, size: int = 4) -> tuple[int, ...]:
        t = strip_tiling(*sizes, size, up=(up, up), down=(down, down), channels_last=channels_last)
        return t.rows, t.cols, t.turns, t.block_strips, t.block_groups, t.block_channels, t.num_warps

    # 4 columns of 2 rows at a time, in strips that nearly fill the last wave; of 4 rows going up, of 1 going down.
    assert tile(256, 1, 256, 256) == tile(256, 1, 256, 256, size=2) == (2, 4, 13, 4, 64, 1, 8)
    assert tile(256, 1, 512, 512, up=2) == (4, 4, 26, 2, 128, 1, 8)
    assert tile(256, 1, 256, 256, down=2) == (1, 4, 26, 4, 64, 1, 8)
    # Strips are shorter where multiprocessors would idle; threads have one column of 4 rows where rows are not aligned.
    assert tile(1024, 1, 64, 64) == (2, 4, 4, 16, 16, 1, 8)
    assert tile(256, 1, 257, 257) == (4, 1, 17, 4, 64, 1, 8)
    assert tile(32768, 1, 4, 4) == (2, 4, 1, 256, 1, 1, 8)
    # 2 columns of 2 rows of 4 channels.
    assert tile(16, 64, 64, 64, channels_last=True) == (2, 2, 4, 4, 16, 16, 8)
    assert tile(4, 64, 32, 32, channels_last=True) == (2, 2, 1, 4, 4, 16, 2)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("element_size", [2, 4])
def test_the_last_of_few_waves_fills_the_chip(element_size: int, channels_last: bool):
    """To 70% of an H200, for problems of 4 MB and more that run in 2 to 8 waves."""
    sizes = itertools.product((4, 8, 16, 32), (16, 32, 64, 128, 256, 512), (8, 16, 32, 64, 128, 256, 512, 1024))
    for samples, channels, side in sizes:
        if not 4 << 20 <= samples * channels * side**2 * element_size <= 1 << 30:
            continue
        images = (samples, channels) if channels_last else (samples * channels, 1)
        for up, down, width in ((1, 1, side), (1, 1, side + 1), (2, 1, side), (1, 2, side)):
            t = strip_tiling(
                *images, side, width, element_size, up=(up, up), down=(down, down), channels_last=channels_last
            )
            waves = t.programs * t.num_warps * 32 / (132 * (512 if channels_last else 1280))
            assert waves <= 1 or waves > 8 or waves / math.ceil(waves) >= 0.7, (images, side, width, up, down)
