"""The layers that are thin: their parameters, that they pass every setting on, and how they are printed."""

import pytest
import torch
from torch import nn

from fastgan.nn import (
    AdaIN,
    BiasAct,
    EqualizedConv2d,
    EqualizedLinear,
    MinibatchStdDev,
    NoiseInjection,
    PixelNorm,
    StyleEpilogue,
)


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
    torch.testing.assert_close(y, (nn.functional.leaky_relu(plain(x), 0.1) * 1.5).clamp(-2, 2))
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
    torch.testing.assert_close(AdaIN(3, 4)(x, torch.zeros(2, 4)), nn.functional.instance_norm(x))


def test_adain_takes_scale_and_shift_from_the_style():
    layer = AdaIN(3, 4, eps=0.1).double()
    x, style = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    scale, shift = layer.style(style).view(2, 2, 3, 1, 1).unbind(1)
    expected = nn.functional.instance_norm(x, eps=0.1) * scale + shift
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


class StyleGANsOwn(nn.Module):
    """Karras et al. 2018 as it is usually written."""

    def __init__(self, group_size: int, num_channels: int) -> None:
        super().__init__()
        self.group_size, self.num_channels = group_size, num_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        group = min(self.group_size, n)
        y = x.reshape(group, -1, self.num_channels, c // self.num_channels, h, w)
        y = y - y.mean(dim=0)
        y = (y.square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4])
        y = y.reshape(-1, self.num_channels, 1, 1).repeat(group, 1, h, w)
        return torch.cat([x, y], dim=1)


def test_minibatch_standard_deviation_replaces_the_usual_module():
    x = torch.randn(8, 6, 4, 4, dtype=torch.float64)
    for settings in ((4, 1), (2, 3), (100, 2)):
        torch.testing.assert_close(MinibatchStdDev(*settings)(x), StyleGANsOwn(*settings)(x))
    torch.testing.assert_close(MinibatchStdDev()(x), StyleGANsOwn(4, 1)(x))
