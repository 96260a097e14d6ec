"""The layers that are thin: their parameters, that they pass every setting on, and how they are printed.

The values of equalized layers are compared with plain torch in models/test_stylegan_twins.py.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgan.nn import (
    AdaIN,
    BiasAct,
    Blur,
    ConditionalBatchNormAct2d,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchDiscrimination,
    MinibatchStdDev,
    NoiseInjection,
    PixelNorm,
    StyleEpilogue,
    spectral_norm_,
)
from fastgan_kernels import reference


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (BiasAct(3, clamp=1.0), "BiasAct(3, act='lrelu', negative_slope=0.2, gain=1.0, clamp=1.0)"),
        (AdaIN(3, 4), "eps=1e-05"),
        (NoiseInjection(3), "NoiseInjection(3)"),
        (PixelNorm(1e-6), "PixelNorm(eps=1e-06)"),
        (MinibatchStdDev(8, 2), "MinibatchStdDev(group_size=8, num_channels=2)"),
        (
            EqualizedLinear(4, 2, bias=False, gain=2.0, lr_multiplier=0.01),
            "(4, 2, bias=False, scale=0.01, lr_multiplier",
        ),
        (EqualizedConv2d(4, 2, 3, stride=2, gain=3.0), "(4, 2, kernel_size=3, stride=2, bias=True, scale=0.5)"),
        (
            StyleEpilogue(3, 4, bias=False, order="tutorial"),
            "noise=True, bias=False, act='lrelu', negative_slope=0.2, o",
        ),
    ],
)
def test_printing_shows_the_settings(layer: nn.Module, text: str):
    assert text in repr(layer)


def test_bias_act_replaces_the_bias_of_a_convolution_and_its_leaky_relu():
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 8, 3, dtype=torch.float64)
    fused = nn.Conv2d(3, 8, 3, bias=False, dtype=torch.float64)
    act = BiasAct(8, negative_slope=0.1, gain=1.5, clamp=2.0).double()
    with torch.no_grad():
        fused.weight.copy_(plain.weight)
        act.bias.copy_(plain.bias)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    y = act(fused(x))
    torch.testing.assert_close(y, (F.leaky_relu(plain(x), 0.1) * 1.5).clamp(-2, 2))
    assert [(n, p.shape, p.any().item()) for n, p in BiasAct(4).named_parameters()] == [("bias", (4,), False)]


def test_bias_act_passes_every_setting_on():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).view(1, 1, 7)
    assert BiasAct(None, act="relu")(x).flatten().tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert BiasAct(None, act="linear", gain=2.0, clamp=5.0)(x).flatten().tolist() == [-5, -4, -2, 0, 2, 4, 5]
    assert BiasAct(None, negative_slope=0.5)(x).flatten().tolist() == [-1.5, -1, -0.5, 0, 1, 2, 3]
    assert not list(BiasAct(None).parameters())


def test_the_bias_of_bias_act_may_have_another_name():
    layer = BiasAct(3, parameter_name="Bias")
    assert [name for name, _ in layer.named_parameters()] == ["Bias"]
    layer.load_state_dict({"Bias": torch.tensor([1.0, 2.0, -3.0])})
    torch.testing.assert_close(layer(torch.zeros(1, 3)), torch.tensor([[1.0, 2.0, -0.6]]))
    assert "3, act=" in repr(layer)
    assert BiasAct(None, parameter_name="Bias").Bias is None


def test_adain_of_a_zero_style_is_instance_normalization():
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(AdaIN(3, 4)(x, torch.zeros(2, 4)), F.instance_norm(x))


def test_adain_takes_scale_and_shift_from_the_style():
    layer = AdaIN(3, 4, eps=0.1).double()
    x, style = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    scale, shift = layer.style(style).view(2, 2, 3, 1, 1).unbind(1)
    expected = F.instance_norm(x, eps=0.1) * scale + shift
    torch.testing.assert_close(layer(x, style), expected)
    layer(x, style).pow(2).sum().backward()
    assert layer.style.weight.grad.abs().sum() > 0


def test_pixel_norm_replaces_the_usual_expression():
    for x in (torch.randn(4, 6, 5, 5, dtype=torch.float64), torch.randn(4, 512, dtype=torch.float64)):
        torch.testing.assert_close(PixelNorm()(x), x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt())
        torch.testing.assert_close(PixelNorm(0.1)(x), x / (x.square().mean(1, keepdim=True) + 0.1).sqrt())
    assert not list(PixelNorm().parameters())


@pytest.mark.parametrize(("num_channels", "shape"), [(3, (3,)), (None, ())])
def test_the_strength_of_noise_begins_at_zero_and_learns(num_channels: int | None, shape: tuple[int, ...]):
    layer = NoiseInjection(num_channels)
    assert [(n, p.shape, p.any().item()) for n, p in layer.named_parameters()] == [("strength", shape, False)]
    x, noise = torch.randn(2, 3, 4, 5), torch.randn(2, 1, 4, 5)
    assert torch.equal(layer(x), x)
    layer(x, noise).sum().backward()
    expected = noise.sum() if num_channels else 3 * noise.sum()
    torch.testing.assert_close(layer.strength.grad, expected.expand(shape))


def test_noise_is_drawn_at_every_call_unless_it_is_given():
    noise, x, style = torch.randn(2, 1, 4, 5), torch.randn(2, 3, 4, 5), torch.randn(2, 4)
    epilogue, injection = StyleEpilogue(3, 4), NoiseInjection(3)
    for layer, given in ((injection, ()), (epilogue, (style,))):
        with torch.no_grad():
            layer.strength.copy_(torch.tensor([1.0, 2.0, -0.5]))
        torch.manual_seed(1)
        first, second = layer(x, *given), layer.eval()(x, *given)
        assert not torch.equal(first, second)
        torch.manual_seed(1)
        assert torch.equal(layer(x, *given), first)
        assert torch.equal(layer(x, *given, noise), layer(x, *given, noise))
    torch.testing.assert_close(injection(x, noise), x + noise * injection.strength.view(3, 1, 1))


def test_the_strength_may_have_another_name():
    layer = NoiseInjection(None, parameter_name="weight")
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    layer.load_state_dict({"weight": torch.tensor(2.0)})
    x, noise = torch.randn(2, 3, 4, 5), torch.randn(1, 1, 4, 5)
    torch.testing.assert_close(layer(x, noise), x + 2 * noise)
    assert repr(layer) == "NoiseInjection(None)"


def test_minibatch_standard_deviation_passes_its_settings():
    x = torch.randn(8, 6, 4, 4, dtype=torch.float64)
    for group_size, num_channels in ((4, 1), (2, 3), (100, 2)):
        expected = reference.minibatch_stddev(x, group_size=group_size, num_channels=num_channels)
        torch.testing.assert_close(MinibatchStdDev(group_size, num_channels)(x), expected)


@pytest.mark.parametrize("order", ["paper", "tutorial"])
def test_one_layer_for_four(order: str):
    torch.manual_seed(0)
    epilogue = StyleEpilogue(3, 4, negative_slope=0.1, order=order, eps=1e-3).double()
    noise_layer, bias, act, adain = (
        NoiseInjection(3),
        BiasAct(3, act="linear"),
        nn.LeakyReLU(0.1),
        AdaIN(3, 4, eps=1e-3),
    )
    with torch.no_grad():
        epilogue.strength.copy_(torch.tensor([1.0, -0.5, 2.0]))
        epilogue.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
        noise_layer.strength.copy_(epilogue.strength)
        bias.bias.copy_(epilogue.bias)
    adain.load_state_dict({name: t for name, t in epilogue.state_dict().items() if name.startswith("style.")})
    x, style, noise = torch.randn(2, 3, 5, 5), torch.randn(2, 4), torch.randn(2, 1, 5, 5)
    x, style, noise = x.double(), style.double(), noise.double()
    layers = (noise_layer.double(), bias.double(), adain.double())
    y = bias(noise_layer(x, noise))
    y = adain(act(y), style) if order == "paper" else act(adain(y, style))
    found = epilogue(x, style, noise)
    torch.testing.assert_close(found, y)
    dy = torch.randn_like(y)
    expected = [p for layer in layers for p in layer.parameters()]
    gradients = torch.autograd.grad(y, expected, dy)
    found = torch.autograd.grad(found, [epilogue.strength, epilogue.bias, *epilogue.style.parameters()], dy)
    for f, e in zip(found, gradients, strict=True):
        torch.testing.assert_close(f, e, atol=1e-12, rtol=1e-9)


def test_begins_at_a_plain_block():
    layer = StyleEpilogue(3, 4)
    x = torch.randn(2, 3, 5, 5)
    expected = F.instance_norm(F.leaky_relu(x, 0.2))
    torch.testing.assert_close(layer(x, torch.zeros(2, 4)), expected)
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {
        "strength": (3,),
        "bias": (3,),
        "style.weight": (6, 4),
        "style.bias": (6,),
    }


def test_without_noise_and_bias():
    layer = StyleEpilogue(3, 4, noise=False, bias=False, act="linear")
    assert {n for n, _ in layer.named_parameters()} == {"style.weight", "style.bias"}
    x, style = torch.randn(2, 3, 5, 5), torch.randn(2, 4)
    adain = AdaIN(3, 4)
    adain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x, style), layer(x, style))
    torch.testing.assert_close(layer(x, style), adain(x, style))
    with pytest.raises(ValueError, match="noise is given without strength"):
        layer(x, style, torch.randn(2, 1, 5, 5))


def test_one_strength_for_all_channels():
    layer, of_each = StyleEpilogue(3, 4, shared_strength=True), StyleEpilogue(3, 4)
    assert layer.strength.shape == ()
    nn.init.constant_(layer.strength, 0.7)
    of_each.load_state_dict(layer.state_dict() | {"strength": torch.full((3,), 0.7)})
    x, style, noise = torch.randn(2, 3, 5, 5), torch.randn(2, 4), torch.randn(2, 1, 5, 5)
    torch.testing.assert_close(layer(x, style, noise), of_each(x, style, noise))


def _as_in_the_paper(x: Tensor, weight: Tensor, kernels: int) -> Tensor:
    """Salimans et al. 2016, section 3.2, with the tensor T [A, B, C]."""
    m = torch.einsum("na,abc->nbc", x, weight.view(x.shape[1], kernels, -1))
    c = torch.exp(-(m[:, None] - m[None]).abs().sum(3))
    return torch.cat([x, c.sum(1)], dim=1)


def test_appends_the_similarities_of_the_paper():
    layer = MinibatchDiscrimination(6, num_kernels=4, kernel_dim=3).double()
    x = torch.randn(5, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (5, 10)
    torch.testing.assert_close(y, _as_in_the_paper(x, layer.weight, 4))
    assert [(name, p.shape) for name, p in layer.named_parameters()] == [("weight", (6, 12))]
    assert repr(layer) == "MinibatchDiscrimination(6, num_kernels=4, kernel_dim=3)"


@pytest.mark.parametrize("kernel_dim", [1, 16])
@pytest.mark.parametrize("in_features", [32, 512])
def test_samples_begin_at_a_distance_of_one(in_features: int, kernel_dim: int):
    torch.manual_seed(0)
    layer = MinibatchDiscrimination(in_features, 200, kernel_dim)
    m = (torch.randn(60, in_features) @ layer.weight).detach().view(60, 200, kernel_dim)
    distance = (m[:30] - m[30:]).abs().sum(2)
    assert 0.95 < distance.mean() < 1.05


@pytest.mark.parametrize("shape", [(6,), (3, 5), (3, 6, 1)])
def test_another_shape_is_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"^MinibatchDiscrimination: x has shape \[.*\], expected \[N, 6\]$"):
        MinibatchDiscrimination(6, 4, 3)(torch.zeros(shape))


LABELS = torch.tensor([2, 0, 2, 1, 0])


def test_conditional_batch_norm_starts_as_batch_norm():
    x = torch.randn(5, 3, 6, 6)
    layer = ConditionalBatchNormAct2d(3, 4, eps=1e-3, momentum=0.3, act="linear")
    plain = nn.BatchNorm2d(3, eps=1e-3, momentum=0.3)
    assert torch.equal(layer(x, LABELS), plain(x))
    assert torch.equal(layer.norm.running_var, plain.running_var)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_output_of_conditional_batch_norm_has_the_type_of_x(dtype):
    assert ConditionalBatchNormAct2d(3, 4).eval()(torch.randn(5, 3, 2, 2, dtype=dtype), LABELS).dtype == dtype


def test_a_step_of_adam_moves_the_weights_in_effect_by_the_multiplier():
    """The first step of Adam is the learning rate times the gradient's sign."""

    def moved(lr_multiplier):
        torch.manual_seed(0)
        layer = EqualizedLinear(16, 4, lr_multiplier=lr_multiplier).double()
        x = torch.eye(16, dtype=torch.float64)
        before = layer(x).detach()
        optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3, eps=0)
        (layer(x) * torch.arange(1, 5)).sum().backward()
        optimizer.step()
        return before - layer(x).detach()

    # The weight by 1e-3 / sqrt(16), the bias by 1e-3.
    torch.testing.assert_close(moved(1.0), torch.full((16, 4), 1.25e-3, dtype=torch.float64))
    torch.testing.assert_close(moved(0.01), torch.full((16, 4), 1.25e-5, dtype=torch.float64))


def test_spectral_norm_passes_them_by():
    model = nn.Sequential(EqualizedLinear(3, 3), nn.Linear(3, 3))
    spectral_norm_(model)
    assert [n for n, _ in model[0].named_parameters()] == ["weight", "bias"]


def image(n: int = 8) -> Tensor:
    return torch.randn(2, 3, n, n + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_usual_blur():
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    expected = F.conv2d(image(), torch.outer(taps, taps).expand(3, 1, 3, 3), padding=1, groups=3)
    torch.testing.assert_close(Blur((1, 2, 1)).double()(image()), expected)
    torch.testing.assert_close(Blur((1, 2, 1))(image()), expected)  # taps are exact in any type


@pytest.mark.parametrize("kernel", [(1,), (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 4, 6, 4, 1)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 1)])
def test_sizes_and_brightness(kernel: tuple[int, ...], up: int, down: int):
    x = torch.ones(1, 2, 12, 18, dtype=torch.float64)
    y = Blur(kernel, up=up, down=down)(x)
    assert y.shape == (1, 2, 12 * up // down, 18 * up // down)
    # A period of the inserted zeros, away from the edge.
    rows = y[0, 0, 2 * up : 3 * up] if up > 1 else y[0, 0, 2:-2]
    cols = rows[:, 2 * up : 3 * up] if up > 1 else rows[:, 2:-2]
    assert cols.mean().item() == pytest.approx(1)


def center(y: Tensor) -> tuple[float, float]:
    """Of a bright spot, in pixels: row and column."""
    y = y[0, 0] / y.sum()
    rows, cols = (torch.arange(n, dtype=y.dtype) for n in y.shape)
    return (y.sum(1) @ rows).item(), (y.sum(0) @ cols).item()


def test_where_a_pixel_goes():
    x = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    x[0, 0, 8, 7] = 1
    assert center(Blur((1, 2, 1))(x)) == pytest.approx((8, 7))
    assert center(Blur()(x)) == pytest.approx((8.5, 7.5))
    # A pixel becomes two by two, whose center lies between them, and the same in return.
    doubled = Blur(up=2)(x)
    assert center(doubled) == pytest.approx((16.5, 14.5))
    assert center(Blur(down=2)(doubled)) == pytest.approx((8, 7))


def test_it_has_no_state_and_moves_with_the_model():
    blur = Blur()
    assert not blur.state_dict()
    assert blur.to("meta").kernel.is_meta
    assert Blur((1, 3, 3, 1)).half().kernel.tolist() == [1, 3, 3, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel": ()}, "kernel is"),
        ({"kernel": (1, -1)}, "expected taps of a sum that is not 0"),
        ({"up": 0}, "up is 0"),
        ({"up": 2, "down": 2}, "one of them 1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Blur(**arguments)
