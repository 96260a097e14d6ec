"""What is particular to filtered_lrelu; the rest of its tests are in test_every_op.py."""

import importlib
import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.library import opcheck

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import filtered_lrelu, reference, use_backend
from fastgan_kernels.tiling import cdiv, filtered_tiling, filtered_turns
from tests.kernels.harness import lay_out, random, saved_bytes, tiered

# The package exports the function under the name of its module.
module = importlib.import_module("fastgan_kernels.ops.filtered_lrelu")


def in_torch(
    x: Tensor, up_kernel: Tensor, down_kernel: Tensor, bias: Tensor, up: int, down: int, padding: list[int],
    gain: float, slope: float, clamp: float | None, flip: bool,
) -> Tensor:  # fmt: skip
    """The five steps, each by torch's own transposed and strided convolutions; no padding is negative."""
    n, c, h, w = x.shape

    def plane(kernel: Tensor) -> Tensor:
        kernel = torch.outer(kernel, kernel) if kernel.dim() == 1 else kernel
        return kernel if flip else kernel.flip((0, 1))

    y = x + bias.view(1, -1, 1, 1)
    zeros = y.new_zeros(n, c, h, up, w, up)
    zeros[:, :, :, 0, :, 0] = y
    y = nn.functional.pad(zeros.view(n, c, h * up, w * up), padding)
    y = nn.functional.conv2d(y, plane(up_kernel).expand(c, 1, -1, -1) * up**2, groups=c)
    y = nn.functional.leaky_relu(y, slope) * gain
    y = y if clamp is None else torch.where(y.abs() < clamp, y, clamp * y.sign())
    return nn.functional.conv2d(y, plane(down_kernel).expand(c, 1, -1, -1), stride=down, groups=c)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize(
    ("up_shape", "down_shape", "up", "down", "padding", "settings"),
    [
        # In float64 every tap of twelve by twelve is a turn of a loop in the interpreter.
        tiered((12,), (12,), 2, 2, [9, 8, 9, 8], (2**0.5, 0.2, 0.9, False), plain=False),
        ((5,), (4, 3), 4, 2, [6, 3, 2, 7], (1.0, 0.1, None, True)),
        ((3, 2), (1,), 1, 1, [1, 2, 0, 3], (1.5, 1.0, 0.8, False)),
    ],
)
def test_two_orders_against_torch(up_shape, down_shape, up: int, down: int, padding, settings, backend: str):
    gain, slope, clamp, flip = settings
    kernels = random(up_shape, 3) / 3, random(down_shape, 4) / 3
    results = []
    for f in (filtered_lrelu, in_torch):
        x, bias = random((2, 3, 8, 7), 1).requires_grad_(), random((3,), 2).requires_grad_()
        with use_backend(backend):
            if f is in_torch:
                y = in_torch(x, *kernels, bias, up, down, padding, gain, slope, clamp, flip)
            else:
                y = filtered_lrelu(
                    x, *kernels, bias, up=up, down=down, padding=padding, gain=gain, negative_slope=slope, clamp=clamp,
                    flip=flip,
                )  # fmt: skip
            first = torch.autograd.grad(y.pow(3).sum(), (x, bias), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, bias))
        results.append((y, *first, *second))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


class _Composed(Exception):
    pass


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel runs, not the composition."""

    def refuse(*_: object) -> None:
        raise _Composed

    monkeypatch.setattr(module, "_composed", refuse)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize(
    ("shape", "up_shape", "down_shape", "settings"),
    [
        # Several tiles and turns, of rows that are aligned and not.
        ((1, 1, 32, 31), (12,), (12,), {"up": 2, "down": 2, "padding": (9, 8, 11, 10), "clamp": 0.6}),
        ((1, 2, 8, 9), (24,), (12,), {"up": 4, "down": 2, "padding": (14, 11, 13, 12)}),
        ((1, 2, 13, 9), (12,), (12, 12), {"up": 2, "down": 2, "padding": (9, 8, 9, 8), "clamp": 0.7, "flip": True}),
        ((1, 1, 9, 12), (3, 4), (5, 2), {"up": (2, 1), "down": (1, 3), "padding": (4, 4, 5, -1), "clamp": 0.5}),
        ((2, 3, 6, 5), None, None, {"padding": (0, -1, 2, 1), "negative_slope": 1.0}),
        # Parts of the middle that are less than a matrix apart.
        ((1, 1, 3, 24), (7,), (4,), {"up": (3, 1), "down": (2, 1), "padding": (5, 4, 5, 4), "clamp": 0.5}),
    ],
)
def test_two_orders_of_the_kernel(shape, up_shape, down_shape, settings: dict):
    """In float32, to 1e-5 of the largest; the gradients of the image and the bias, and of both the derivative in dy."""
    kernels = [None if s is None else random(s, 3 + i, torch.float32) / 3 for i, s in enumerate((up_shape, down_shape))]
    results = []
    for f in (filtered_lrelu, reference.filtered_lrelu):
        x, bias = (random(s, i, torch.float32).requires_grad_() for i, s in enumerate((shape, shape[1:2])))
        y = f(x, *kernels, bias, **settings)
        dy = random(y.shape, 5, torch.float32).requires_grad_()
        first = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), dy)
        results.append((y, *first, *second))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("dtype", "channels_last", "taps", "padding"),
    [
        (torch.float64, False, 4, 3),
        (torch.float32, True, 4, 3),
        # No tile holds these; the kernel does not count so far.
        (torch.float32, False, 70, 69),
        (torch.float32, False, 4, 501),
    ],
)
def test_what_the_kernel_does_not_take_is_composed(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, channels_last: bool, taps: int, padding: int
):
    def note(*arguments: object) -> Tensor:
        raise _Composed

    monkeypatch.setattr(module, "_composed", note)
    x = lay_out(random((1, 2, 4, 4), 0, dtype), "channels_last" if channels_last else "contiguous")
    kernel = random((taps,), 1, dtype)
    with pytest.raises(_Composed):
        filtered_lrelu(x, kernel, kernel, up=2, down=2, padding=padding)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype):
    x, bias, taps = random((1, 2, 9, 7), 0, dtype), random((2,), 1, dtype), random((6,), 2, torch.float32) / 2
    settings = {"up": 2, "down": 2, "padding": (5, 4, 5, 4), "clamp": 0.8}
    found = filtered_lrelu(x, taps, taps, bias, **settings)
    expected = reference.filtered_lrelu(x.double(), taps.double(), taps.double(), bias.double(), **settings)
    eps = torch.finfo(dtype).eps
    assert ((found.double() - expected).abs() <= eps * expected.abs() + 1e-5).all()


@pytest.mark.usefixtures("fused")
def test_keeps_two_bits_for_a_pixel_of_the_middle():
    x = random((2, 3, 8, 9), 0, torch.float32)
    taps = random((4,), 1, torch.float32)
    middle = (2 * 8 + 6 - 3, 2 * 9 + 6 - 3)

    def call() -> Tensor:
        return filtered_lrelu(x, taps, taps, up=2, down=2, padding=3)

    assert saved_bytes(call) == 0
    x.requires_grad_()
    assert saved_bytes(call) == 2 * 3 * middle[0] * math.ceil(middle[1] / 4) + 2 * taps.nbytes


def test_registered_operators_pass_opcheck():
    x, bias = random((1, 2, 6, 5), 0, torch.float32).requires_grad_(), random((2,), 1, torch.float32).requires_grad_()
    taps = random((4,), 2, torch.float32)
    filters = [taps, taps, [2, 2], [2, 2], [3, 3], [0, 0], True]
    settings = ([15, 13], [6, 5], 4.0, 0.2)
    ops = torch.ops.fastgan
    opcheck(ops.filtered_lrelu.default, (x, bias, *filters, *settings, 0.9, True))
    _, signs = ops.filtered_lrelu(x.detach(), bias.detach(), *filters, *settings, 0.9, True)
    opcheck(ops.filtered_lrelu_backward.default, (x, bias, signs, *filters, *settings, [True, True]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2, 3, 4)}, r"x has shape \[2, 3, 4\], expected \[N, C, H, W\]"),
        ({"x": torch.zeros(2, 3, 4, 4, dtype=torch.int32)}, "x is torch.int32, expected float16"),
        ({"up_kernel": torch.zeros(2, 2, 2)}, r"up_kernel has shape \[2, 2, 2\], expected \[kh, kw\] or \[k\]"),
        ({"down_kernel": torch.zeros(2, requires_grad=True)}, "down_kernel requires a gradient"),
        ({"bias": torch.zeros(4)}, r"bias has shape \[4\], expected \[3\]"),
        ({"up": 0}, "up is 0, expected an integer of at least 1"),
        ({"down": (1, 2, 3)}, r"down is \(1, 2, 3\), expected an integer"),
        ({"padding": "1"}, "padding is '1', expected an integer"),
        ({"gain": 0.0}, "gain is 0.0, expected a finite number greater than 0"),
        ({"negative_slope": -1.0}, "negative_slope is -1.0, expected a finite number of at least 0"),
        ({"clamp": -1.0}, "clamp is -1.0, expected None or a number of at least 0"),
        ({"padding": -1}, r"the kernels span \[3, 3\] pixels, expected at most \[2, 2\], the image after padding"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    given = {"x": torch.zeros(2, 3, 4, 4), "up_kernel": torch.zeros(2), "down_kernel": torch.zeros(2), **arguments}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=f"filtered_lrelu: {message}"):
        filtered_lrelu(**given)


def test_the_last_of_few_waves_fills_the_chip():
    """To 70% of an H200, each of whose 132 multiprocessors runs three programs, for problems of 4 MB and more."""
    filters = {"a": (12, 12), "b": (12, 12), "up": (2, 2), "down": (2, 2)}
    for planes, side in itertools.product((16, 32, 64, 128, 512, 2048), (36, 52, 84, 148, 256, 276, 512, 1024)):
        if 4 << 20 <= 4 * planes * side**2 <= 1 << 30:
            t = filtered_tiling((side, side), 4, **filters)
            rows, columns = cdiv(side, t.tile_y), planes * cdiv(side, t.tile_x)
            waves = columns * cdiv(rows, filtered_turns(columns, rows)) / (132 * 3)
            assert waves > 8 or waves / math.ceil(waves) >= 0.7, (planes, side)


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_order_launches_and_moves_less_than_plain_torch(layout: str):
    """Fused and, in channels-last, composed: forward, gradient, and the derivative of the gradient."""
    taps, settings = random((4,), 1, torch.float32), {"up": 2, "down": 2, "padding": 3, "clamp": 0.8}
    costs = []
    for backend in ("triton", "reference"):
        x = lay_out(random((1, 8, 9, 8), 0, torch.float32), layout).requires_grad_()
        bias = random((8,), 2, torch.float32).requires_grad_()
        with use_backend(backend), count_traffic("program") as forward:
            y = filtered_lrelu(x, taps, taps, bias, **settings)
        dy = torch.ones_like(y).requires_grad_()
        with count_traffic("program") as backward:
            dx, _ = torch.autograd.grad(y, (x, bias), dy, create_graph=True)
        with count_traffic("program") as double_backward:
            torch.autograd.grad(dx, dy, torch.ones_like(dx))
        costs.append([(len(t.launches), t.loaded + t.stored) for t in (forward, backward, double_backward)])
    for (launches, moved), (most_launches, most_moved) in zip(*costs, strict=True):
        assert launches <= most_launches, costs
        assert moved <= most_moved, costs
