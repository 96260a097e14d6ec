import pytest
import torch
from torch import nn
from twins import assert_twins, copy_weights, num_parameters, output_and_gradients, shake

from fastgan.models import build_networks
from fastgan.nn import BiasAct


def make_twins(num_pixels=784, latent_dim=100, base=128):
    """The networks in plain torch, written out from SPEC.md section 2."""
    generator = nn.Sequential(
        nn.Linear(latent_dim, base),
        nn.LeakyReLU(0.2),
        nn.Linear(base, 2 * base),
        nn.BatchNorm1d(2 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * base, 4 * base),
        nn.BatchNorm1d(4 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(4 * base, num_pixels),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Flatten(),
        nn.Linear(num_pixels, 4 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(4 * base, 2 * base),
        nn.LeakyReLU(0.2),
        nn.Linear(2 * base, 1),
        nn.Flatten(0),
    )
    return generator, discriminator


@pytest.mark.parametrize(
    ("num_channels", "generator", "discriminator"),
    # SPEC.md; two more colours add 2 * 784 pixels to the last layer, with biases, and to the first.
    [(1, 581_264, 533_505), (3, 581_264 + 1568 * 513, 533_505 + 1568 * 512)],
)
def test_it_has_the_specified_number_of_parameters(num_channels, generator, discriminator):
    networks = build_networks("vanilla", resolution=28, num_channels=num_channels)
    assert num_parameters(networks.generator) == generator
    assert num_parameters(networks.discriminator) == discriminator


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_networks_equal_plain_torch_twins(training):
    torch.manual_seed(1)
    networks = build_networks("vanilla", resolution=28, num_channels=1)
    twins = make_twins()
    # The twin's generator has no image shape.
    twins[0].append(nn.Unflatten(1, (1, 28, 28)))
    inputs = (torch.randn(5, 100), torch.rand(5, 1, 28, 28) * 2 - 1)
    for network, twin, x in zip(networks, twins, inputs, strict=True):
        network.double().train(training)
        twin.double().train(training)
        shake(network)
        copy_weights(network, twin)
        assert_twins(network, twin, lambda n, x=x: output_and_gradients(n, x))


def test_fused_layers_stand_where_leaky_relu_follows_a_bias():
    networks = build_networks("vanilla", resolution=28, num_channels=1)
    assert [sum(isinstance(m, BiasAct) for m in network.modules()) for network in networks] == [1, 2]
