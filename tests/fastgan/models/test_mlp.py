import pytest
import torch
from torch import nn
from twins import assert_twins, copy_weights, output_and_gradients, penalised_step, shake

from fastgan.models import build_networks
from fastgan_kernels import use_backend


def make_twins(shape=(2, 1, 1), latent_dim=16, base=128):
    """Three hidden layers with ReLU, in plain torch."""
    channels, height, width = shape
    num_pixels = channels * height * width

    def hidden(in_features):
        return [
            nn.Linear(in_features, base),
            nn.ReLU(),
            nn.Linear(base, base),
            nn.ReLU(),
            nn.Linear(base, base),
            nn.ReLU(),
        ]

    generator = nn.Sequential(*hidden(latent_dim), nn.Linear(base, num_pixels), nn.Tanh(), nn.Unflatten(1, shape))
    discriminator = nn.Sequential(nn.Flatten(), *hidden(num_pixels), nn.Linear(base, 1), nn.Flatten(0))
    return generator, discriminator


def networks_and_twins(base=128):
    torch.manual_seed(1)
    networks = build_networks("mlp", resolution=1, num_channels=2, latent_dim=16, base_channels=base)
    pairs = list(zip(networks, make_twins(base=base), strict=True))
    for network, twin in pairs:
        network.double(), twin.double()
        shake(network)
        copy_weights(network, twin)
    return pairs


def points():
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 5, 2, 1, 1, generator=generator, dtype=torch.float64) * 2 - 1


def test_outputs_and_gradients_equal_those_of_plain_torch():
    generator, discriminator = networks_and_twins()
    assert_twins(*generator, lambda network: output_and_gradients(network, torch.ones(5, 16).cumsum(0) / 5))
    assert_twins(*discriminator, lambda network: output_and_gradients(network, points()[0]))


def test_a_penalised_step_equals_that_of_plain_torch():
    _, (discriminator, twin) = networks_and_twins()
    assert_twins(discriminator, twin, lambda network: penalised_step(network, *points()))


def test_a_penalised_step_on_the_kernels():
    _, (discriminator, twin) = networks_and_twins(base=8)
    with use_backend("triton"):
        found = penalised_step(discriminator, *points())
    expected = penalised_step(twin, *points())
    assert_twins(discriminator, twin, lambda network: found if network is discriminator else expected)


@pytest.mark.parametrize(("minibatch", "appended"), [("stddev", 1), ("discrimination", 16)])
def test_a_minibatch_layer_tells_the_last_hidden_layer_of_the_batch(minibatch, appended):
    torch.manual_seed(1)
    _, discriminator = build_networks("mlp", resolution=1, num_channels=2, base_channels=8, minibatch=minibatch)
    first, last = discriminator.layers[1], discriminator.layers[-3]
    assert (first.in_features, last.in_features) == (2, 8 + appended)
    images = points()[0][:4].float()
    alike = images[:1].expand(4, -1, -1, -1)
    # The same point among others, and among copies of itself.
    assert not torch.isclose(discriminator(images)[0], discriminator(alike)[0])
    _, plain = build_networks("mlp", resolution=1, num_channels=2, base_channels=8)
    assert torch.isclose(plain(images)[0], plain(alike)[0])
