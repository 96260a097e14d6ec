"""What is particular to bias_act; the rest of its tests are in test_every_op.py."""

import importlib
import math

import pytest
import torch
from torch import nn
from torch.library import opcheck

from fastgan_kernels import bias_act, reference, use_backend
from tests.kernels.harness import DEVICE, FLOAT_TYPES, check_against_float64, lay_out, random, saved_bytes

# The package exports the function under the name of its module.
bias_act_module = importlib.import_module("fastgan_kernels.ops.bias_act")


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("clamp", [0.7, 1.1, 256.3])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_clamped_output_has_no_gradient_in_any_type(dtype: torch.dtype, clamp: float, backend: str):
    """0.7, 1.1 and 256.3 exist in no type: a saved output that was rounded below them must still count as clamped."""
    x = torch.tensor([[-5000.0, -1e-3, 1e-3, 5000.0]], dtype=dtype, device=DEVICE).requires_grad_()
    with use_backend(backend):
        y = bias_act(x, act="linear", clamp=clamp)
        (gradient,) = torch.autograd.grad(y.sum(), x)
    limit = torch.tensor(clamp, dtype=dtype).item()
    assert y[0, 0].item() == -limit
    assert y[0, 3].item() == limit
    assert gradient.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_gradient_is_zero_where_the_output_equals_the_clamp(backend: str):
    x = torch.tensor([[-2.0, -1.0, 1.0, 2.0]], device=DEVICE, requires_grad=True)
    with use_backend(backend):
        (gradient,) = torch.autograd.grad(bias_act(x, act="linear", clamp=2.0).sum(), x)
    assert gradient.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize(("act", "at_zero"), [("relu", 0.0), ("lrelu", 0.25)])
def test_the_gradient_at_zero_is_that_of_torch(act: str, at_zero: float):
    x = torch.zeros(1, 4, device=DEVICE, requires_grad=True)
    (gradient,) = torch.autograd.grad(bias_act(x, act=act, negative_slope=0.25).sum(), x)
    assert gradient.tolist() == [[at_zero] * 4]


def test_saves_the_output_and_nothing_else():
    x = random((2, 3, 8, 8), 0, torch.bfloat16).requires_grad_()
    bias = random((3,), 1, torch.float32).requires_grad_()
    assert saved_bytes(lambda: bias_act(x, bias)) == x.numel() * 2
    assert saved_bytes(lambda: bias_act(x, bias, act="linear")) == 0


def test_an_output_changed_in_place_is_noticed():
    x = random((2, 3), 0).requires_grad_()
    y = bias_act(x)
    y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_gradient_that_is_not_needed_is_none():
    g = y = random((2, 3, 4), 0)
    for needs in ([True, True], [True, False], [False, True], [False, False]):
        gradients = bias_act_module._launch_backward(g, None, y, "lrelu", 0.2, 1.0, None, needs)
        assert [t is not None for t in gradients] == needs


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_derivative_is_symmetric(layout: str):
    """<D(g, b), (v, w)> = <(g, b), D(v, w)>: why every order of gradient is this one op. Here with all its operands."""
    y, g, v = (lay_out(random((3, 5, 7, 3), seed), layout) for seed in range(3))
    b, w = random((5,), 3), random((5,), 4)

    def derivative(g: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return bias_act_module._launch_backward(g, b, y, "lrelu", 0.2, 1.5, 1.0, [True, True])

    (dx, dbias), (of_v, of_w) = derivative(g, b), derivative(v, w)
    torch.testing.assert_close((dx * v).sum() + (dbias * w).sum(), (g * of_v).sum() + (b * of_w).sum())
    torch.testing.assert_close(dbias, dx.sum((0, 2, 3)))


def test_backward_asks_only_for_what_is_needed(monkeypatch: pytest.MonkeyPatch):
    asked = []
    inner = bias_act_module._bias_act_backward

    def spy(*args):
        asked.append((args[0] is not None, args[1] is not None, *args[-1]))
        return inner(*args)

    monkeypatch.setattr(bias_act_module, "_bias_act_backward", spy)
    x, bias = random((2, 3, 4), 0), random((3,), 1)
    bias_act(x, bias.requires_grad_()).sum().backward()
    bias_act(x.requires_grad_(), bias.detach()).sum().backward()
    assert asked == [(True, False, False, True), (True, False, True, False)]
    asked.clear()
    # The second order of the bias alone has no tangent of x: an absent operand, not a tensor of zeros.
    bias = bias.detach().requires_grad_()
    dy = random((2, 3, 4), 2).requires_grad_()
    (dbias,) = torch.autograd.grad(bias_act(x.detach(), bias), bias, dy, create_graph=True)
    torch.autograd.grad(dbias.sum(), dy)
    assert asked == [(True, False, False, True), (False, True, True, False)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\], expected \[N, C, \*spatial\]"),
        ({"x": torch.zeros(2, 3, dtype=torch.int32)}, "x is torch.int32, expected float16"),
        ({"bias": torch.zeros(4)}, r"bias has shape \[4\], expected \[3\] for x of shape \[2, 3, 4, 4\]"),
        ({"bias": torch.zeros(3, dtype=torch.int64)}, "bias is torch.int64"),
        ({"bias": torch.zeros(3, device="meta")}, "bias is on meta and x on cpu"),
        ({"act": "gelu"}, "act is 'gelu', expected one of 'linear', 'relu', 'lrelu', 'tanh', 'sigmoid', 'elu'"),
        ({"negative_slope": -0.1}, "negative_slope is -0.1"),
        ({"negative_slope": float("nan")}, "negative_slope is nan"),
        ({"gain": 0.0}, "gain is 0.0"),
        ({"gain": float("inf")}, "gain is inf"),
        ({"clamp": -0.5}, "clamp is -0.5"),
        ({"clamp": float("nan")}, "clamp is nan"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        bias_act(**{"x": torch.zeros(2, 3, 4, 4), **arguments})


CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("act", CURVED)
def test_two_orders_of_the_curved_activations(act: str, dtype: torch.dtype):
    """Odd sixteenths lie at no kink. In half precision there is no clamp: another element would meet it."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    x = (random((2, 3, 5, 4), 1) * 12).round().clamp(-60, 60) / 8 + 1 / 16
    for layout, bias, gain, clamp in (
        ("contiguous", True, 1.5, None if narrow else 1.234),
        ("channels_last", True, 0.5, None),
        ("sliced", False, 1.0, None),
    ):
        inputs = [lay_out(x.to(dtype), layout)] + [random((3,), 2).mul(4).round().div(8).to(dtype)] * bias
        settings = {"act": act, "gain": gain, "clamp": clamp}
        check_against_float64(
            lambda *t, settings=settings: bias_act(*t, **settings),
            lambda *t, settings=settings: reference.bias_act(*t, **settings),
            inputs,
            reduction=40,
        )


@pytest.mark.parametrize("act", CURVED)
def test_curved_activations_far_out_and_near_zero(act: str):
    """Every relative error is that of the arithmetic: no difference cancels near 0, nothing overflows far out."""
    x = torch.cat([torch.logspace(-12, 2.5, 30), torch.tensor([0.0, 19.9, 20.1])]).double().to(DEVICE)
    x = torch.cat([x, -x])[None].requires_grad_()
    results = []
    for f in (bias_act, reference.bias_act):
        y = f(x, act=act)
        (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        results.append([y, first, *torch.autograd.grad(first.sum(), x)])
    for order, (found, expected) in enumerate(zip(*results, strict=True)):
        # Torch takes sigmoid and its like by a difference of 1, exact to an epsilon of 1.
        torch.testing.assert_close(found, expected, rtol=1e-14 if order == 0 else 1e-12, atol=2e-15)


@pytest.mark.parametrize("act", CURVED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_special_values_pass_the_curved_activations_as_in_torch(act: str, value: float):
    results = []
    for f in (bias_act, reference.bias_act):
        x = torch.tensor([[value, 1.0]], dtype=torch.float64, device=DEVICE, requires_grad=True)
        y = f(x, act=act)
        results.append([y, *torch.autograd.grad(y.sum(), x)])
    (y, dx), (expected, expected_dx) = results
    torch.testing.assert_close(y, expected, equal_nan=True)
    # At infinity torch's own gradients are NaN or 0, by the formula.
    torch.testing.assert_close(dx[0, 1], expected_dx[0, 1])
    assert dx[0, 0].isnan() or not expected_dx[0, 0].isnan() or not math.isnan(value)


def test_a_third_order_of_a_curved_activation_is_refused():
    x = random((2, 3), 0).requires_grad_()
    total = bias_act(x, act="tanh").sum()
    for _ in range(2):
        (total,) = (g.pow(2).sum() for g in torch.autograd.grad(total, x, create_graph=True))
    with pytest.raises(RuntimeError, match="bias_act with tanh has gradients up to the second order"):
        torch.autograd.grad(total, x)


def test_what_the_curved_activations_keep():
    x = random((2, 3, 8, 8), 0, torch.bfloat16).requires_grad_()
    bias = random((3,), 1, torch.float32).requires_grad_()
    assert saved_bytes(lambda: bias_act(x, bias, act="swish")) == x.nbytes + bias.nbytes


@pytest.mark.parametrize("act", CURVED)
def test_registered_operators_of_curved_activations_pass_opcheck(act: str):
    x, g, v = (random((2, 3, 4), i, torch.float32).requires_grad_() for i in range(3))
    bias = random((3,), 3, torch.float32).requires_grad_()
    ops = torch.ops.fastgan
    opcheck(ops.bias_act.default, (x, bias, act, 0.2, 1.5, 1.234))
    opcheck(ops.bias_act_curved_backward.default, (g, None, None, x, bias, act, 1.5, 1.234, [True, True]))
    second = (g.detach(), bias.detach(), v.detach(), x.detach(), None, act, 1.5, None, [True, False])
    opcheck(ops.bias_act_curved_backward.default, second)


@pytest.mark.parametrize("act", ["linear", "lrelu", "tanh"])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_clamp_of_zero_leaves_nothing(act: str, backend: str):
    x = torch.tensor([[-2.0, -0.0, 1.0]], device=DEVICE, requires_grad=True)
    with use_backend(backend):
        y = bias_act(x, act=act, clamp=0.0)
        (dx,) = torch.autograd.grad(y.sum(), x)
    assert not y.any()
    assert not dx.any()


class Discriminator(nn.Module):
    """Two convolutions; the activation is ours or torch's, the parameters are the same."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        generator = torch.Generator().manual_seed(5)
        self.weights = nn.ParameterList(
            torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.2
            for shape in ((4, 2, 3, 3), (5, 4, 3, 3), (1, 5, 4, 4))
        )
        self.biases = nn.ParameterList(torch.randn(n, generator=generator, dtype=torch.float64) * 0.2 for n in (4, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight, bias in zip(self.weights, self.biases, strict=False):
            x = nn.functional.conv2d(x, weight, padding=1)
            if self.fused:
                x = bias_act(x, bias, act="lrelu", gain=2**0.5, clamp=1.5)
            else:
                x = nn.functional.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * 2**0.5
                x = torch.where(x.abs() < 1.5, x, 1.5 * x.sign())
        return nn.functional.conv2d(x, self.weights[2]).flatten()


def r1_gradients(discriminator: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Parameter gradients of the logistic loss with R1 (Mescheder et al. 2018, eq. 9)."""
    logits = discriminator(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    loss = nn.functional.softplus(-logits).mean() + 5 * gradient.square().sum((1, 2, 3)).mean()
    return torch.autograd.grad(loss, tuple(discriminator.parameters()))


def some_images() -> torch.Tensor:
    return random((3, 2, 4, 4), 0).requires_grad_()


@pytest.fixture
def expected_r1() -> tuple[torch.Tensor, ...]:
    return r1_gradients(Discriminator(fused=False).to(DEVICE), some_images())


def assert_equal_gradients(found, expected) -> None:
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


def test_r1_in_eager_mode(expected_r1):
    assert_equal_gradients(r1_gradients(Discriminator(fused=True).to(DEVICE), some_images()), expected_r1)


@pytest.mark.parametrize("ops", ["triton", "reference"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("fullgraph", [True, False])
def test_r1_in_a_compiled_step_with_traced_autograd(expected_r1, ops: str, backend: str, fullgraph: bool):
    discriminator = Discriminator(fused=True).to(DEVICE)
    with use_backend(ops), torch._dynamo.config.patch(trace_autograd_ops=True):
        step = torch.compile(r1_gradients, backend=backend, fullgraph=fullgraph)
        assert_equal_gradients(step(discriminator, some_images()), expected_r1)


@pytest.mark.parametrize("ops", ["triton", "reference"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("fullgraph", [True, False])
def test_r1_in_a_compiled_step_without_traced_autograd_is_refused(ops: str, backend: str, fullgraph: bool):
    """With the activation in plain torch, torch 2.13 returns wrong gradients here without a word."""
    discriminator = Discriminator(fused=True).to(DEVICE)
    step = torch.compile(r1_gradients, backend=backend, fullgraph=fullgraph)
    with use_backend(ops), pytest.raises(RuntimeError, match="trace_autograd_ops"):
        step(discriminator, some_images())


@pytest.mark.parametrize("ops", ["triton", "reference"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_eager_r1_through_a_compiled_discriminator_is_refused(ops: str, backend: str):
    discriminator = Discriminator(fused=True).to(DEVICE)
    discriminator.compile(backend=backend)
    with use_backend(ops), pytest.raises(RuntimeError, match="do not compile the penalized network"):
        r1_gradients(discriminator, some_images())


@pytest.mark.parametrize("ops", ["triton", "reference"])
def test_a_compiled_discriminator_trains_without_a_penalty(ops: str):
    images = some_images()
    results = []
    for compiled in (True, False):
        discriminator = Discriminator(fused=compiled).to(DEVICE)
        if compiled:
            discriminator.compile(backend="aot_eager")
        with use_backend(ops):
            loss = nn.functional.softplus(-discriminator(images)).mean()
            # Twice through a kept graph is not a second order.
            torch.autograd.grad(loss, images, retain_graph=True)
            results.append(torch.autograd.grad(loss, tuple(discriminator.parameters())))
    assert_equal_gradients(*results)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_bias_gradient_is_summed_in_float32(dtype: torch.dtype):
    """A sum of 4,096 ones in half precision would stop at 2,048 (float16) or 256 (bfloat16)."""
    x = torch.ones(16, 1, 16, 16, dtype=dtype, device=DEVICE)
    bias = torch.zeros(1, device=DEVICE, requires_grad=True)
    bias_act(x, bias).sum().backward()
    assert bias.grad.item() == 4096.0


def test_reference_is_what_it_says():
    x, bias = random((2, 3, 4, 4), 0), random((3,), 1)
    y = reference.bias_act(x, bias, act="lrelu", negative_slope=0.1, gain=3.0)
    torch.testing.assert_close(y, 3 * nn.functional.leaky_relu(x + bias.view(1, 3, 1, 1), 0.1))
