"""What is particular to noise_injection; the rest is in test_every_op.py, and test_noise.py tests the noise itself."""

import importlib
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.static.traffic import count_traffic
from fastgan_kernels import noise_injection, reference, use_backend
from fastgan_kernels.noise import normal_noise
from tests.kernels.harness import DEVICE, LAYOUTS, check_against_float64, lay_out, random, saved_bytes
from tests.kernels.test_noise import ROUNDING

# The package exports the function under the name of its module.
module = importlib.import_module("fastgan_kernels.ops.noise_injection")

# Rows of pixels and of channels; channels of one program, and shared among several.
SHAPES = [(2, 3, 9, 9), (40, 6), (2, 64, 5, 5), (1, 130, 40)]


def drawn(x: Tensor, strength: Tensor, *, seed: int = 5) -> Tensor:
    torch.manual_seed(seed)
    return noise_injection(x, strength)


def noise_of(f: Callable[[Tensor], Tensor], shape: tuple[int, ...], layout: str = "contiguous") -> Tensor:
    """The noise that ``f`` adds to zeros, [N, 1, *spatial]; the same in every channel."""
    y = f(lay_out(torch.zeros(shape, device=DEVICE), layout))
    assert torch.equal(y, y[:, :1].expand_as(y))
    return y[:, :1]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_seed_one_noise_in_every_layout_and_backend(shape: tuple[int, ...]):
    one = torch.ones((), device=DEVICE)
    expected = noise_of(lambda x: drawn(x, one), shape)
    assert expected.std() > 0.5  # of 40 numbers or more
    for layout in LAYOUTS:
        assert torch.equal(noise_of(lambda x: drawn(x, one), shape, layout), expected)
    with use_backend("reference"):
        of_reference = noise_of(lambda x: drawn(x, one), shape)
    torch.testing.assert_close(expected, of_reference, rtol=0, atol=ROUNDING)
    # The pixels that shapes share: the first sample of more, and more channels.
    more = (shape[0] + 1, 2 * shape[1], *shape[2:])
    assert torch.equal(noise_of(lambda x: drawn(x, one), more)[:-1], expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("channels", "tiles"), [(4, 1), (1, 3), (2, 6), (4, 2)])
def test_the_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, layout: str, channels: int, tiles: int):
    """Of ten channels, in tiles of one to four; in one program or several."""
    inputs = [lay_out(random((2, 10, 7, 5), 0), layout), random((10,), 1)]

    def results() -> list[Tensor]:
        x, strength = (t.clone().requires_grad_() for t in inputs)
        y = drawn(x, strength)
        return [y, *torch.autograd.grad(y, (x, strength), torch.ones_like(y).cumsum(1))]

    expected = results()
    tiling_of = module.noise_tiling

    def other_tiling(*args, **kwargs):
        of_pixels = tiling_of(*args, **kwargs)
        splits = -(-10 // (channels * tiles))
        samples = args[0]
        return replace(
            of_pixels, block_channels=channels, block_pixels=8, walks=True, tiles=tiles, splits=splits,
            pixel_programs=samples * -(-args[2] // 8),
        )  # fmt: skip

    monkeypatch.setattr(module, "_launch_of", module._launch_of.__wrapped__)  # which is kept otherwise
    monkeypatch.setattr(module, "noise_tiling", other_tiling)
    for found, e in zip(results(), expected, strict=True):
        torch.testing.assert_close(found, e, rtol=1e-13, atol=1e-13)
    noise = random((2, 1, 7, 5), 3)
    tensors = [*inputs, noise]
    check_against_float64(noise_injection, reference.noise_injection, tensors, reduction=70, passes_gradient_on=True)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_every_call_draws_anew_and_the_seed_reproduces(backend: str):
    x, strength = torch.zeros(2, 3, 8, 8, device=DEVICE), torch.ones(3, device=DEVICE)
    with use_backend(backend):
        torch.manual_seed(1)
        first, second = noise_injection(x, strength), noise_injection(x, strength)
        torch.manual_seed(1)
        again = noise_injection(x, strength)
    assert torch.equal(first, again)
    assert abs(torch.corrcoef(torch.stack([first[:, 0].flatten(), second[:, 0].flatten()]))[0, 1]) < 5 / 128**0.5


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_inside_torch_compile_too(compiler: str, backend: str):
    """Other seeds than in eager mode, perhaps, but as dependable ones; the gradients tell the noise of the forward."""

    @torch.compile(fullgraph=True, backend=compiler)
    def injected(x: Tensor, strength: Tensor) -> Tensor:
        return noise_injection(x, strength) * 2

    x = torch.zeros(2, 3, 8, 8, device=DEVICE, requires_grad=True)
    strength = torch.ones(3, device=DEVICE, requires_grad=True)
    results = []
    with use_backend(backend):
        for seed in (1, None, 1):
            if seed is not None:
                torch.manual_seed(seed)
            y = injected(x, strength)
            (dstrength,) = torch.autograd.grad(y.sum(), strength)
            torch.testing.assert_close(dstrength, y.detach().sum((0, 2, 3)))
            results.append(y.detach())
    first, second, again = results
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.std() > 1.5


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_two_orders_with_drawn_noise(shape: tuple[int, ...], per_channel: bool):
    """The noise of the backward passes is that of the forward: as the reference with this noise."""
    x, strength = random(shape, 0), random((shape[1],) if per_channel else (), 1)
    torch.manual_seed(5)
    noise = normal_noise(module.draw_seed(x), x)
    check_against_float64(
        drawn,
        lambda x, strength: reference.noise_injection(x, strength, noise),
        [x, strength],
        reduction=x.numel(),
        passes_gradient_on=True,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_noise_of_any_strides(layout: str):
    x, noise = random((3, 4, 5, 6), 0), lay_out(random((3, 1, 5, 6), 1), layout)
    inputs = [x, random((4,), 2), noise]
    check_against_float64(noise_injection, reference.noise_injection, inputs, reduction=90, passes_gradient_on=True)


def test_third_order_with_one_strength_for_all():
    results = []
    for f in (noise_injection, reference.noise_injection):
        x, strength, noise = (random(s, i).requires_grad_() for i, s in enumerate([(2, 3, 4), (), (2, 1, 4)]))
        total = f(x, strength, noise).pow(3).sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, (x, strength, noise), create_graph=True)
            total = sum((g * random(g.shape, 9)).sum() for g in gradients)
        results.append(gradients)
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_one_strength_in_a_vector_and_one_noise_for_all_samples(backend: str):
    """As StyleGAN2's layers keep them: [1] and [1, 1, H, W]. Gradients of two orders come back in these shapes."""
    results = []
    for one_for_all in (True, False):
        x, strength, noise = (random(s, i).requires_grad_() for i, s in enumerate([(3, 4, 5, 6), (1,), (1, 1, 5, 6)]))
        operands = (strength, noise) if one_for_all else (strength.expand(4), noise.expand(3, 1, 5, 6))
        with use_backend(backend):
            y = noise_injection(x, *operands)
            first = torch.autograd.grad(y.square().sum(), (x, strength, noise), create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, strength, noise))
        results.append((y, *first, *second))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_x_is_the_incoming_one_and_costs_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_noise_injection_backward", None)
    x, dy = random((2, 3, 4), 0).requires_grad_(), random((2, 3, 4), 1)
    y = noise_injection(x, random((3,), 2))
    (dx,) = torch.autograd.grad(y, x, dy)
    assert dx.data_ptr() == dy.data_ptr()


def test_what_is_kept_for_backward():
    x = random((2, 3, 8, 8), 0, torch.bfloat16).requires_grad_()
    strength, noise = random((3,), 1, torch.float32), random((2, 1, 8, 8), 2, torch.float32)
    assert saved_bytes(lambda: noise_injection(x, strength)) == 0
    assert saved_bytes(lambda: noise_injection(x, strength, noise)) == 0
    assert saved_bytes(lambda: noise_injection(x, strength, noise.requires_grad_())) == 12
    strength.requires_grad_()
    assert saved_bytes(lambda: noise_injection(x, strength)) == 8
    assert saved_bytes(lambda: noise_injection(x, strength, noise.detach())) == 2 * 64 * 4


@pytest.mark.parametrize("shape", [(2, 3, 40), (1, 130, 40)], ids=str)
def test_a_gradient_that_is_not_needed_is_none(shape: tuple[int, ...]):
    n, c, _ = shape
    g, strength, noise = random(shape, 0), random((c,), 1), random((n, 1, 40), 2)
    full = module.noise_gradients(g, strength, noise, None, True, [True, True])
    for needs in ([True, False], [False, True]):
        found = module.noise_gradients(g, strength, noise, None, True, needs)
        assert [t is not None for t in found] == needs
        assert torch.equal(found[needs.index(True)], full[needs.index(True)])


@pytest.mark.skipif(torch.cuda.is_available(), reason="traffic is counted in the interpreter")
@pytest.mark.parametrize(
    ("shape", "channels_last"), [((1, 4, 256, 256), False), ((8, 4, 128, 128), True), ((4, 256, 16, 32), False)]
)
def test_traffic_of_drawn_noise(shape: tuple[int, ...], channels_last: bool):
    """The minimum has no noise: programs draw their own, and none is written."""
    x = lay_out(torch.zeros(shape), "channels_last" if channels_last else "contiguous").requires_grad_()
    strength = torch.ones(shape[1], requires_grad=True)
    with count_traffic() as forward:
        y = noise_injection(x, strength)
    dy = torch.ones_like(y)
    with count_traffic() as backward:
        _, dstrength = torch.autograd.grad(y, (x, strength), dy)
    moved = forward.over_minimum(x, inputs=[x, strength], outputs=[y])
    assert 1 <= moved.ratio <= 1.02
    # Each program reads the seed: 32 bytes, of 2 KB or more.
    assert moved.apart <= 0.016
    assert 1 <= backward.over_minimum(x, inputs=[dy, strength], outputs=[dstrength]).ratio <= 1.02


@pytest.mark.skipif(torch.cuda.is_available(), reason="launches are counted in the interpreter")
@pytest.mark.parametrize("drawn", [False, True])
def test_every_order_is_two_kernels(drawn: bool):
    """Of torch there are only sums of two gradients of one tensor."""
    x, strength, noise = (random(s, i).requires_grad_() for i, s in enumerate([(2, 3, 8), (3,), (2, 1, 8)]))
    inputs = [x, strength] if drawn else [x, strength, noise]
    gradients, names = [noise_injection(*inputs)], set()
    for _ in range(3):
        gradients = [g for g in gradients if g is not None and g.requires_grad]
        cotangents = [random(g.shape, 7).requires_grad_() for g in gradients]
        inputs += cotangents
        with count_traffic() as traffic:
            gradients = torch.autograd.grad(gradients, inputs, cotangents, create_graph=True, allow_unused=True)
        names |= {launch.kernel for launch in traffic.launches}
    assert names - {"aten.add.Tensor"} == {"_forward_kernel", "_backward_kernel", "_sum_partials_kernel"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\]"),
        (
            {"strength": torch.zeros(2)},
            r"strength has shape \[2\], expected \[\] or \[3\] for x of shape \[2, 3, 4, 4\]",
        ),
        ({"strength": torch.zeros((), dtype=torch.int64)}, "strength is torch.int64"),
        ({"strength": torch.zeros((), device="meta")}, "strength is on meta and x on cpu"),
        ({"noise": torch.zeros(2, 3, 4, 4)}, r"noise has shape \[2, 3, 4, 4\], expected \[2, 1, 4, 4\]"),
        ({"noise": torch.zeros(1, 1, 4, 3)}, r"noise has shape \[1, 1, 4, 3\], expected \[2, 1, 4, 4\]"),
        ({"noise": torch.zeros(2, 1, 4, 4, dtype=torch.int32)}, "noise is torch.int32"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    default = {"x": torch.zeros(2, 3, 4, 4), "strength": torch.zeros(3)}
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        noise_injection(**{**default, **arguments})
