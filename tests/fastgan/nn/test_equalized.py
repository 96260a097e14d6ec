import math

import pytest
import torch
import torch.nn.functional as F

from fastgan.nn import EqualizedConv2d, EqualizedLinear, spectral_norm_


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("gain", "lr_multiplier"), [(1.0, 1.0), (math.sqrt(2), 0.01)])
def test_linear_is_scaled_when_it_runs(bias, gain, lr_multiplier):
    torch.manual_seed(0)
    layer = EqualizedLinear(6, 3, bias=bias, gain=gain, lr_multiplier=lr_multiplier).double()
    assert {n: tuple(p.shape) for n, p in layer.named_parameters()} == {"weight": (3, 6)} | (
        {"bias": (3,)} if bias else {}
    )
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    expected = x @ (layer.weight * gain * lr_multiplier / 6**0.5).T
    if bias:
        layer.bias.data.normal_()
        expected = expected + lr_multiplier * layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_convolution_is_scaled_when_it_runs(bias, kernel_size, stride):
    torch.manual_seed(0)
    layer = EqualizedConv2d(4, 3, kernel_size, stride=stride, bias=bias, gain=1.5).double()
    if bias:
        layer.bias.data.normal_()
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    weight = layer.weight * 1.5 / (4 * kernel_size**2) ** 0.5
    y = layer(x)
    assert y.shape == (2, 3, 8 // stride, 8 // stride)
    torch.testing.assert_close(y, F.conv2d(x, weight, layer.bias, stride=stride, padding=kernel_size // 2))


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
    model = torch.nn.Sequential(EqualizedLinear(3, 3), torch.nn.Linear(3, 3))
    spectral_norm_(model)
    assert [n for n, _ in model[0].named_parameters()] == ["weight", "bias"]
