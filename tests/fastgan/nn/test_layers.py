import pytest
import torch
from torch import nn

from fastgan.nn import AdaIN, BiasAct


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
    dy = torch.randn_like(y)
    weight, bias = torch.autograd.grad(y, (fused.weight, act.bias), dy)
    inside = y.detach().abs() < 2
    expected = torch.autograd.grad(
        nn.functional.leaky_relu(plain(x), 0.1) * 1.5, tuple(plain.parameters()), dy * inside
    )
    torch.testing.assert_close((weight, bias), expected)


def test_bias_act_passes_every_setting_on():
    x = torch.linspace(-3, 3, 7, dtype=torch.float64).view(1, 1, 7)
    assert BiasAct(None, act="relu")(x).flatten().tolist() == [0, 0, 0, 0, 1, 2, 3]
    assert BiasAct(None, act="linear", gain=2.0, clamp=5.0)(x).flatten().tolist() == [-5, -4, -2, 0, 2, 4, 5]
    assert BiasAct(None, negative_slope=0.5)(x).flatten().tolist() == [-1.5, -1, -0.5, 0, 1, 2, 3]
    assert not list(BiasAct(None).parameters())
    assert [(n, p.shape, p.any().item()) for n, p in BiasAct(4).named_parameters()] == [("bias", (4,), False)]


def test_adain_of_a_zero_style_is_instance_normalisation():
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


@pytest.mark.parametrize("layer", [BiasAct(3, clamp=1.0), BiasAct(None), AdaIN(3, 4)], ids=repr)
def test_printing_tells_the_settings(layer: nn.Module):
    text = repr(layer)
    assert ("eps=1e-05" in text) if isinstance(layer, AdaIN) else ("act='lrelu'" in text)
    assert ("clamp=1.0" in text) == (getattr(layer, "clamp", None) is not None)
