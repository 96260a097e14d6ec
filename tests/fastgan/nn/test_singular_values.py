import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.nn.utils.spectral_norm import spectral_norm as hooked_spectral_norm

from fastgan.nn import largest_singular_values, spectral_norm, spectral_norm_


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 5, 2), nn.Flatten(), nn.Linear(5 * 49, 2))


def test_they_are_those_of_the_matrix_of_outputs_by_the_rest():
    layers = model()
    with torch.no_grad():
        layers[4].weight.zero_()[0, 0] = 3.0
        layers[4].weight[1, 2] = -4.0
    values = largest_singular_values(layers)
    assert list(values) == ["0", "2", "4"]
    torch.testing.assert_close(values["0"], torch.linalg.svdvals(layers[0].weight.reshape(4, 27))[0])
    torch.testing.assert_close(values["2"], torch.linalg.svdvals(layers[2].weight.movedim(1, 0).reshape(5, 16))[0])
    assert values["4"].item() == pytest.approx(4)
    assert list(largest_singular_values(nn.Linear(2, 2))) == [""]
    assert largest_singular_values(nn.ReLU()) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_types(dtype: torch.dtype):
    layer = nn.Linear(2, 2).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([0.5, -2.0])))
    (value,) = largest_singular_values(layer).values()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.item() == 2
    assert not value.requires_grad


@pytest.mark.parametrize("norm", [spectral_norm, spectral_norm_, torch_spectral_norm, hooked_spectral_norm])
@pytest.mark.parametrize("training", [True, False])
def test_nothing_moves_and_every_mode_stays(norm, training: bool):
    layers = model().train(training)
    if norm is spectral_norm_:
        norm(layers)
    else:
        for i in (0, 2, 4):
            norm(layers[i])
    layers[2].eval()
    layers(torch.randn(1, 3, 8, 8))
    state = {name: value.clone() for name, value in layers.state_dict().items()}
    modes = [module.training for module in layers.modules()]
    first = largest_singular_values(layers)
    assert first == largest_singular_values(layers)
    assert all(torch.equal(value, state[name]) for name, value in layers.state_dict().items())
    assert [module.training for module in layers.modules()] == modes
    assert all(value > 1 - 1e-5 for value in first.values())
