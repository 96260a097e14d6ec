"""What is particular to style_epilogue; the rest is in test_every_op.py, and in test_adain.py what the two share."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.ops import OPS
from benchmarks.static.traffic import count_traffic
from fastgan_kernels import adain, reference, style_epilogue, use_backend
from fastgan_kernels.noise import draw_seed, normal_noise
from fastgan_kernels.ops.norm_act import tile
from fastgan_kernels.tiling import NormTiling, cdiv
from tests.kernels.harness import (
    DEVICE,
    LAYOUTS,
    Function,
    check_against_float64,
    lay_out,
    prepare,
    random,
    saved_bytes,
    tiered,
)

ORDERS = ("paper", "tutorial")
OP = OPS["style_epilogue"]


def six(shape: tuple[int, ...], order: str = "paper") -> list[Tensor]:
    return prepare(OP, shape, settings={"order": order}).inputs


def of_six(f: Function, order: str = "paper") -> Function:
    def styled(x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
        return f(x, scale, shift, noise=noise, strength=strength, bias=bias, order=order)

    return styled


def by_hand(
    x: Tensor, scale: Tensor, shift: Tensor, noise: Tensor, strength: Tensor, bias: Tensor, act: Any, order: str
) -> Tensor:
    """The layers of torch one after the other."""
    spatial = (1,) * (x.dim() - 2)
    y = x + strength.view(-1, *spatial) * noise + bias.view(-1, *spatial)
    y = nn.functional.instance_norm(act(y) if order == "paper" else y)
    y = y * scale.view(*scale.shape, *spatial) + shift.view(*shift.shape, *spatial)
    return y if order == "paper" else act(y)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "act"), [("lrelu", nn.LeakyReLU(0.2)), ("relu", nn.ReLU()), ("linear", nn.Identity())]
)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_is_the_layers_of_torch_one_after_the_other(order: str, name: str, act: nn.Module, backend: str):
    """Random values in float64, which pass the kink many times within a plane."""
    shapes = (3, 4, 9, 8), (3, 4), (3, 4), (3, 1, 9, 8), (4,), (4,)
    inputs = [random(shape, i).requires_grad_() for i, shape in enumerate(shapes)]
    x, scale, shift, noise, strength, bias = inputs
    dy = random(x.shape, 9)
    with use_backend(backend):
        y = style_epilogue(x, scale, shift, noise=noise, strength=strength, bias=bias, act=name, order=order)
    expected = by_hand(*inputs, act, order)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    gradients = zip(torch.autograd.grad(y, inputs, dy), torch.autograd.grad(expected, inputs, dy), strict=True)
    for found, e in gradients:
        torch.testing.assert_close(found, e, rtol=1e-11, atol=1e-11)


def test_without_anything_before_or_after_it_is_adain():
    x, scale, shift = random((2, 3, 5, 7), 0), random((2, 3), 1), random((2, 3), 2)
    for order in ORDERS:
        assert torch.equal(style_epilogue(x, scale, shift, act="linear", order=order), adain(x, scale, shift))


def far_from_the_kink(shift: Tensor) -> Tensor:
    """Larger than scale * xh of any plane of 30 pixels, with both signs; that of `six` suits those only."""
    return torch.where(shift < 0, -16.0, 16.0).to(shift)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("absent", ["noise and strength", "bias", "all"])
def test_absent_operands(order: str, absent: str):
    x, scale, shift, noise, strength, bias = six((3, 4, 5, 6))
    operands = {"noise": noise, "strength": strength, "bias": bias}
    operands = {name: t for name, t in operands.items() if absent != "all" and name not in absent.split(" and ")}
    shift = far_from_the_kink(shift) if order == "tutorial" else shift

    def with_names(f):
        def op(x: Tensor, scale: Tensor, shift: Tensor, *others: Tensor) -> Tensor:
            return f(x, scale, shift, order=order, **dict(zip(operands, others, strict=True)))

        return op

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        inputs = [t.to(dtype) for t in (x, scale, shift, *operands.values())]
        check_against_float64(with_names(style_epilogue), with_names(reference.style_epilogue), inputs, reduction=90)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_and_style_of_any_strides(layout: str):
    x, scale, shift, noise, strength, bias = six((3, 4, 5, 6))
    inputs = [x, *(lay_out(t, layout) for t in (scale, shift, noise, strength, bias))]
    check_against_float64(of_six(style_epilogue), of_six(reference.style_epilogue), inputs, reduction=90)


def tiling_of_small_planes(*, spans: int, fold: int):
    """Instead of planes too large for the interpreter, small ones cut as those are."""

    def norm_tiling(
        groups: int, samples: int, channels: int, pixels: int, *_: Any, channels_last: bool, **__: Any
    ) -> NormTiling:
        block_channels = 4 if channels_last else 1
        all_tiles = cdiv(pixels, 8)
        tiles = cdiv(all_tiles, spans)
        return NormTiling(
            *(block_channels, 1, 8, all_tiles, all_tiles, spans, tiles, False),
            *(groups * cdiv(channels, block_channels), fold, 2),
        )

    return norm_tiling


@pytest.mark.parametrize(
    ("order", "layout", "spans", "fold"),
    [
        tiered(order, layout, *cut, plain=(order == "paper") == ((layout == "contiguous") == (cut[0] > 1)))
        for order in ORDERS
        for layout in LAYOUTS[:2]
        for cut in ((1, 1), (3, 2))
    ],
)
def test_planes_that_are_read_twice(monkeypatch: pytest.MonkeyPatch, order: str, layout: str, spans: int, fold: int):
    """Two orders of all operands: the second pass sees the same noise, bias and activation as the first."""
    monkeypatch.setattr(tile, "NormLaunch", tile.NormLaunch.__wrapped__)  # which is kept otherwise
    monkeypatch.setattr(tile, "norm_tiling", tiling_of_small_planes(spans=spans, fold=fold))
    x, *others = six((2, 3, 5, 9), order)
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [t.to(dtype) for t in (lay_out(x, layout), *others)]
        check_against_float64(
            of_six(style_epilogue, order), of_six(reference.style_epilogue, order), inputs, reduction=90
        )
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("order", "layout", "per_channel"),
    [
        tiered(order, layout, per_channel, plain=(order == "paper") == ((layout == "contiguous") == per_channel))
        for order in ORDERS
        for layout in LAYOUTS[:2]
        for per_channel in (True, False)
    ],
)
def test_two_orders_with_drawn_noise(order: str, layout: str, per_channel: bool):
    """The noise of the backward passes is that of the forward: as the reference with this noise."""
    x, scale, shift, _, strength, bias = six((3, 4, 5, 6))
    strength = strength if per_channel else strength[1]
    torch.manual_seed(5)
    noise = normal_noise(draw_seed(x), x)

    def drawn(x: Tensor, scale: Tensor, shift: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
        torch.manual_seed(5)
        return style_epilogue(x, scale, shift, strength=strength, bias=bias, order=order)

    def given(x: Tensor, scale: Tensor, shift: Tensor, strength: Tensor, bias: Tensor) -> Tensor:
        return reference.style_epilogue(x, scale, shift, noise=noise, strength=strength, bias=bias, order=order)

    # In float64: noise of any value may come close to the kink.
    check_against_float64(drawn, given, [lay_out(x, layout), scale, shift, strength, bias], reduction=360)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_noise_is_drawn_where_there_is_a_strength_alone(backend: str):
    x, scale, shift, noise, strength, _ = (t.to(DEVICE) for t in six((3, 4, 5, 6)))
    with use_backend(backend):
        torch.manual_seed(1)
        first, second = (style_epilogue(x, scale, shift, strength=strength) for _ in range(2))
        torch.manual_seed(1)
        assert torch.equal(style_epilogue(x, scale, shift, strength=strength), first)
        assert not torch.equal(first, second)
        state = torch.get_rng_state()
        assert torch.equal(style_epilogue(x, scale, shift), style_epilogue(x, scale, shift))
        style_epilogue(x, scale, shift, noise=noise, strength=strength)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(1)
        seed = draw_seed(x)
        expected = reference.style_epilogue(x, scale, shift, noise=reference.normal_noise(seed, x), strength=strength)
    # The noise is in float32, whose last digits differ between the backends.
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
def test_drawn_noise_inside_torch_compile(compiler: str):
    x, scale, shift, _, strength, bias = (t.to(DEVICE, torch.float32) for t in six((2, 3, 4, 5)))
    strength = strength.abs().add(1).requires_grad_()

    @torch.compile(fullgraph=True, backend=compiler)
    def block(strength: Tensor) -> Tensor:
        return style_epilogue(x, scale, shift, strength=strength, bias=bias) * 2

    results = []
    for seed in (1, None, 1):
        if seed is not None:
            torch.manual_seed(seed)
        y = block(strength)
        results.append((y.detach(), *torch.autograd.grad(y.square().sum(), strength)))
    first, second, again = results
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], second[0])


def test_what_is_kept_for_backward():
    shape = (2, 3, 8, 8)
    x = random(shape, 0, torch.bfloat16).requires_grad_()
    scale, shift = random((2, 3), 1, torch.float32), random((2, 3), 2, torch.float32)
    noise, strength, bias = (random(s, 3, torch.float32) for s in ((2, 1, 8, 8), (3,), (3,)))
    always = x.numel() * 2 + 3 * (2 * 3 * 4)  # x, scale, mean and r
    assert saved_bytes(lambda: style_epilogue(x, scale, shift)) == always
    assert saved_bytes(lambda: style_epilogue(x, scale, shift, order="tutorial")) == always + 2 * 3 * 4
    assert saved_bytes(lambda: style_epilogue(x, scale, shift, order="tutorial", act="linear")) == always
    assert saved_bytes(lambda: style_epilogue(x, scale, shift, strength=strength)) == always + 3 * 4 + 8
    with_noise = always + 2 * (3 * 4) + noise.numel() * 4
    assert saved_bytes(lambda: of_six(style_epilogue)(x, scale, shift, noise, strength, bias)) == with_noise


def test_the_gradient_of_the_noise_is_summed_before_it_is_rounded():
    """Of 64 channels whose gradients nearly cancel: sums of rounded values would keep no digit."""
    channels = 64
    x = random((1, channels, 16), 0).bfloat16()
    scale, shift = random((1, channels), 1), torch.zeros(1, channels)
    noise = torch.zeros(1, 1, 16, requires_grad=True)
    strength = torch.ones(channels)
    dy = random(x.shape, 2).bfloat16()
    y = style_epilogue(x, scale, shift, noise=noise, strength=strength, act="linear")
    (found,) = torch.autograd.grad(y, noise, dy)
    exact = noise.detach().double().requires_grad_()
    y = reference.style_epilogue(
        x.double(), scale, shift.double(), noise=exact, strength=strength.double(), act="linear"
    )
    (expected,) = torch.autograd.grad(y, exact, dy.double())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
def test_drawn_noise_is_drawn_once_for_all_channels():
    x = torch.zeros(1, 32, 64, 128, requires_grad=True)
    scale, shift = torch.ones(1, 32), torch.zeros(1, 32)
    strength = torch.ones(32, requires_grad=True)
    with count_traffic() as forward:
        y = style_epilogue(x, scale, shift, strength=strength)
    dy = torch.ones_like(y)
    with count_traffic() as backward:
        gradients = torch.autograd.grad(y, (x, strength), dy)
    for traffic in (forward, backward):
        of_noise = [launch for launch in traffic.launches if launch.kernel == "_normal_noise_kernel"]
        assert len(of_noise) == 1
        assert of_noise[0].stored == 64 * 128 * 4
    inputs = [x, scale, shift, strength]
    moved = forward.over_minimum(x, inputs=inputs, outputs=[y])
    assert 1 <= moved.ratio <= 1.02
    # One write, and a read by each channel, of float32 like x: from L2, since all channels of a pixel run together.
    assert moved.apart <= (1 + 32) / 64 + 0.01
    assert 1 <= backward.over_minimum(x, inputs=[dy, *inputs], outputs=gradients).ratio <= 1.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\]"),
        ({"scale": torch.zeros(3)}, r"scale has shape \[3\], expected \[2, 3\] for x of shape \[2, 3, 4, 4\]"),
        ({"shift": torch.zeros(2, 4)}, r"shift has shape \[2, 4\], expected \[2, 3\]"),
        ({"noise": torch.zeros(2, 1, 4, 4)}, "noise is given without strength"),
        ({"noise": torch.zeros(2, 4, 4), "strength": torch.zeros(3)}, r"noise has shape \[2, 4, 4\], expected \[2, 1"),
        ({"strength": torch.zeros(2)}, r"strength has shape \[2\], expected \[\] or \[3\]"),
        ({"bias": torch.zeros(2)}, r"bias has shape \[2\], expected \[3\]"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, "bias is torch.int64"),
        ({"act": "gelu"}, "act is 'gelu', expected one of 'linear', 'relu', 'lrelu'"),
        ({"negative_slope": -0.1}, "negative_slope is -0.1"),
        ({"order": "other"}, "order is 'other', expected 'paper' or 'tutorial'"),
        ({"eps": -1e-5}, "eps is -1e-05"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    default = {"x": torch.zeros(2, 3, 4, 4), "scale": torch.zeros(2, 3), "shift": torch.zeros(2, 3)}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        style_epilogue(**{**default, **arguments})
