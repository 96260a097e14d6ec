import pytest
import torch
from torch import nn

from fastgan.nn import AdaIN, BiasAct, NoiseInjection, StyleEpilogue


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
    expected = nn.functional.instance_norm(nn.functional.leaky_relu(x, 0.2))
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
