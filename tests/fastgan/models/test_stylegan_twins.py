"""StyleGAN's networks against plain torch, with the same state dict, in float64."""

import pytest
import torch
from stylegan_twins import discriminator_twin, mapping_twin, synthesis_twin
from torch import nn
from twins import error_bound, shake

from fastgan.models import build_networks
from fastgan.regularizers import r1
from fastgan_kernels import use_backend

# The resolution grown to, and how far the fade has come.
STATES = pytest.mark.parametrize(("resolution", "fade"), [(16, 1.0), (16, 0.3), (8, 1.0), (8, 0.0), (4, 1.0)])
LATENT_DIM = 5


def make_networks(resolution=16, base_channels=8):
    torch.manual_seed(0)
    networks = build_networks(
        "stylegan", resolution=resolution, num_channels=2, latent_dim=LATENT_DIM, base_channels=base_channels
    )
    for network in networks:
        shake(network.double())
    # Normalizing a plane that is constant but for rounding would compare the rounding.
    nn.init.normal_(networks.generator.synthesis.blocks["4"].constant)
    return networks


def noises(generator):
    return [generator.get_buffer(f"synthesis.noise_{layer}") for layer in range(generator.num_layers)]


def generator_twin(state, latents, noises, resolution, fade):
    styles = mapping_twin(state, latents)[:, None].repeat(1, len(noises), 1)
    return synthesis_twin(state, styles, noises, resolution, fade if fade < 1 else None)


def leaves(network):
    return {name: t.detach().clone().requires_grad_() for name, t in network.state_dict().items()}


def value_and_gradients(parameters, y):
    """``y``, and the gradients of its squares in the named parameters, 0 where it does not depend on one."""
    gradients = torch.autograd.grad(
        y.square().sum(), list(parameters.values()), allow_unused=True, materialize_grads=True
    )
    return {"value": y.detach()} | dict(zip(parameters, gradients, strict=True))


def assert_equal(network, y, state, expected):
    found = value_and_gradients(dict(network.named_parameters()), y)
    expected = value_and_gradients({name: state[name] for name, _ in network.named_parameters()}, expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=error_bound(network, value), msg=lambda m, n=name: f"{n}: {m}"
        )


@STATES
def test_the_generator_equals_plain_torch(resolution, fade):
    generator = make_networks().generator.eval()
    generator.grow(resolution, fade)
    latents, state = torch.randn(3, LATENT_DIM, dtype=torch.float64), leaves(generator)
    images = generator(latents)
    assert images.shape == (3, 2, resolution, resolution)
    assert_equal(generator, images, state, generator_twin(state, latents, noises(generator), resolution, fade))


def logits_and_r1(discriminator, images):
    """R1: half of gamma 10 times the mean squared length of the gradient in the image."""
    leaf = images.clone().requires_grad_()
    logits = discriminator(leaf)
    (gradient,) = torch.autograd.grad(logits.sum(), leaf, create_graph=True)
    return torch.cat([logits, 5 * gradient.square().sum((1, 2, 3)).mean(0, keepdim=True)])


def check_discriminator(discriminator, images, fade):
    state = leaves(discriminator)
    found = torch.cat([discriminator(images), r1(discriminator, images)[None]])
    expected = logits_and_r1(lambda x: discriminator_twin(state, x, fade if fade < 1 else None), images)
    assert_equal(discriminator, found, state, expected)


@STATES
def test_the_discriminator_and_its_r1_equal_plain_torch(resolution, fade):
    discriminator = make_networks().discriminator
    discriminator.grow(resolution, fade)
    check_discriminator(discriminator, torch.randn(8, 2, resolution, resolution, dtype=torch.float64), fade)


def test_both_networks_on_the_kernels():
    generator, discriminator = make_networks(resolution=8, base_channels=4)
    generator.eval()
    for network in (generator, discriminator):
        network.grow(8, 0.3)
    latents = torch.randn(2, LATENT_DIM, dtype=torch.float64)
    images = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    state = leaves(generator)
    with use_backend("triton"):
        assert_equal(generator, generator(latents), state, generator_twin(state, latents, noises(generator), 8, 0.3))
        check_discriminator(discriminator, images, 0.3)
