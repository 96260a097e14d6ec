"""Layers of other people's models become fused ones, by accelerate's mapping."""

import pytest
import torch
from torch import nn

import fastgan.dropin
from fastgan.dropin import converters
from fastgan.dropin.rosinality.fused_act import FusedLeakyReLU


class BiasedActivation(nn.Module):
    """As R3GAN's, whose activation is a name or a module."""

    Function: str | nn.Module = "lrelu"

    def __init__(self, channels):
        super().__init__()
        self.Bias = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        slope = getattr(self.Function, "negative_slope", 0.2)
        return nn.functional.leaky_relu(x + self.Bias.view(-1, *(1,) * (x.dim() - 2)), slope)


class OtherSlope(BiasedActivation):
    Function = nn.LeakyReLU(0.1)


class Unknown(BiasedActivation):
    Function = "gelu"


class Noise(nn.Module):
    """As rosinality's ``NoiseInjection``."""

    def __init__(self, shape=(1,)):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, image, noise=None):
        noise = torch.ones_like(image[:, :1]) if noise is None else noise
        return image + self.weight * noise


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([FusedLeakyReLU(3, negative_slope=0.3, scale=1.5), FusedLeakyReLU(3, bias=False)])
        self.layers.extend([BiasedActivation(3), OtherSlope(3)])
        self.noise = Noise()
        self.register_buffer("fixed", torch.randn(1, 1, 4, 4))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.noise(x, noise=self.fixed)


MAPPING = {
    FusedLeakyReLU: converters.fused_leaky_relu,
    BiasedActivation: converters.biased_activation,
    Noise: converters.noise_injection,
}


def test_accelerate_swaps_them_and_nothing_else_changes():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 3, 4, 4)
    keys, parameters, y = list(model.state_dict()), list(model.parameters()), model(x)
    report = fastgan.accelerate(model, mapping=MAPPING, check=True, example_inputs=(x,))
    assert [s.by for s in report.swapped] == 4 * ["BiasAct, by its converter"] + ["NoiseInjection, by its converter"]
    assert not report.left
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    torch.testing.assert_close(model(x), y)


def test_settings_and_names_are_kept():
    layer = converters.fused_leaky_relu(FusedLeakyReLU(5, negative_slope=0.3, scale=1.5))
    assert repr(layer) == "BiasAct(5, act='lrelu', negative_slope=0.3, gain=1.5)"
    assert [n for n, _ in converters.biased_activation(OtherSlope(5)).named_parameters()] == ["Bias"]
    assert repr(converters.noise_injection(Noise())) == "NoiseInjection(1)"


@pytest.mark.parametrize(
    ("convert", "module"),
    [(converters.biased_activation, Unknown(3)), (converters.noise_injection, Noise((1, 3, 1, 1)))],
)
def test_a_layer_that_is_something_else_is_left(convert, module):
    assert convert(module) is None


def test_converters_are_there_without_an_import_of_their_own():
    assert fastgan.dropin.converters is converters
    assert not hasattr(fastgan.dropin, "nothing")
