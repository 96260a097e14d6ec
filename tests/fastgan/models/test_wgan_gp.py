import pytest
import torch
from torch import nn
from twins import (
    assert_twins,
    copy_weights,
    num_parameters,
    output_and_gradients,
    penalised_step,
    shake,
    trunk,
    trunk_features,
    with_head,
)

from fastgan.models.wgan_gp import build_wgan_gp
from fastgan_kernels import use_backend


class LayerNorm(nn.Module):
    """Over channels and pixels, with a scale and shift per channel."""

    def __init__(self, num_channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x):
        flat = x.flatten(1)
        mean, variance = flat.mean(1), flat.var(1, correction=0)
        normal = (x - mean[:, None, None, None]) / (variance[:, None, None, None] + 1e-5).sqrt()
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def critics(resolution, norm, base):
    torch.manual_seed(1)
    _, critic = build_wgan_gp(resolution=resolution, num_channels=1, base_channels=base, norm=norm)
    layers = trunk(resolution, base, LayerNorm if norm == "layer" else None)
    twin = with_head(layers, trunk_features(resolution, base))
    critic.double(), twin.double()
    shake(critic)
    copy_weights(critic, twin)
    return critic, twin


def batches(resolution):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 1, resolution, resolution, generator=generator, dtype=torch.float64) * 2 - 1


CRITICS = pytest.mark.parametrize(
    ("resolution", "norm"), [(28, "none"), (28, "layer"), (32, "none"), (32, "layer")], ids=str
)


@pytest.mark.parametrize(
    ("norm", "expected"),
    # DCGAN's 98,113 without the scales and shifts of 32, 64 and 128 channels, which layer norm has too.
    [("none", 98_113 - 2 * (32 + 64 + 128)), ("layer", 98_113)],
)
def test_the_critic_has_the_parameters_of_dcgans_trunk(norm, expected):
    generator, critic = build_wgan_gp(resolution=28, num_channels=1, norm=norm)
    assert num_parameters(generator) == 856_065
    assert num_parameters(critic) == expected


@CRITICS
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_equal_those_of_plain_torch(resolution, norm, training):
    critic, twin = critics(resolution, norm, base=16)
    critic.train(training), twin.train(training)
    x, _ = batches(resolution)
    assert_twins(critic, twin, lambda network: output_and_gradients(network, x))


@CRITICS
def test_a_penalised_step_equals_that_of_plain_torch(resolution, norm):
    critic, twin = critics(resolution, norm, base=16)
    assert_twins(critic, twin, lambda network: penalised_step(network, *batches(resolution)))


@pytest.mark.parametrize("resolution", [28, 32])
def test_a_penalised_step_on_the_kernels(resolution):
    critic, twin = critics(resolution, "none", base=4)
    with use_backend("triton"):
        found = penalised_step(critic, *batches(resolution))
    expected = penalised_step(twin, *batches(resolution))
    assert_twins(critic, twin, lambda network: found if network is critic else expected)


@pytest.mark.parametrize("resolution", [28, 64])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_critic_begins_with_gradients_of_the_order_of_one(resolution, norm):
    """The penalty asks for 1; with DCGAN's initial weights it would be 0.0002 and 0.02 without a norm."""
    torch.manual_seed(0)
    _, critic = build_wgan_gp(resolution=resolution, num_channels=1, base_channels=32, norm=norm)
    x = batches(resolution)[0].float().requires_grad_()
    (gradient,) = torch.autograd.grad(critic.eval()(x).sum(), x)
    assert 0.2 < gradient.flatten(1).norm(dim=1).mean() < 5
