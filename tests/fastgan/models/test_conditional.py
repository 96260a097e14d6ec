"""Conditional networks: generators with a scale and shift a class, discriminators with a projection."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from twins import (
    assert_twins,
    copy_weights,
    generator_twin,
    num_parameters,
    output_and_gradients,
    penalised_step,
    shake,
    sngan_trunk,
    trunk,
    trunk_features,
)

from fastgan.models import build_networks
from fastgan.nn import ConditionalBatchNorm2d, ProjectionHead
from fastgan_kernels import use_backend

CLASSES = 5
LABELS = torch.tensor([3, 0, 4])


class Bound(nn.Module):
    """A conditional network with its labels, so that it is compared as the others are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x, LABELS)


class ByClass(nn.Module):
    """Batch norm, with the rows of a scale and a shift that one-hot labels pick."""

    def __init__(self, num_features):
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.scale = nn.Parameter(torch.empty(CLASSES, num_features))
        self.shift = nn.Parameter(torch.empty(CLASSES, num_features))

    def forward(self, x):
        labels = one_hot(LABELS, CLASSES).to(x.dtype)
        return self.norm(x) * (labels @ self.scale)[:, :, None, None] + (labels @ self.shift)[:, :, None, None]


class Projection(nn.Module):
    """Equation 4 of Miyato and Koyama 2018 with one-hot labels: y^T V f + psi(f)."""

    def __init__(self, num_features, parametrise=lambda layer: layer):
        super().__init__()
        self.psi = parametrise(nn.Linear(num_features, 1))
        self.v = parametrise(nn.Embedding(CLASSES, num_features))

    def forward(self, f):
        projected = torch.einsum("ny,yf,nf->n", one_hot(LABELS, CLASSES).to(f.dtype), self.v.weight, f)
        return projected + self.psi(f).squeeze(1)


DISCRIMINATORS = [("dcgan", 28), ("dcgan", 32), ("wgan-gp", 28), ("wgan-gp", 32), ("sngan", 28)]
PENALISED = [key for key in DISCRIMINATORS if key[0] != "dcgan"]


def build(model, resolution, num_classes=CLASSES, base=8, **options):
    return build_networks(
        model, resolution=resolution, num_channels=1, base_channels=base, num_classes=num_classes, **options
    )


def pair(network, twin):
    ours, theirs = Bound(network).double(), twin.double()
    shake(ours)
    copy_weights(ours, theirs)
    return ours, theirs


def discriminators(model, resolution, base=8):
    torch.manual_seed(1)
    network = build(model, resolution, base=base).discriminator
    if model == "sngan":
        layers, head = sngan_trunk(base), Projection(8 * base, torch_spectral_norm)
    else:
        layers = trunk(resolution, base, nn.BatchNorm2d if model == "dcgan" else None)
        head = Projection(trunk_features(resolution, base))
    return pair(network, nn.Sequential(*layers, nn.Flatten(), head))


def batches(resolution):
    random = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 1, resolution, resolution, generator=random, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("model", ["dcgan", "wgan-gp", "sngan"])
@pytest.mark.parametrize("resolution", [28, 32])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_generators_equal_plain_torch_twins(model, resolution, training):
    torch.manual_seed(1)
    ours, theirs = pair(build(model, resolution).generator, generator_twin(resolution, 8, ByClass))
    ours.train(training), theirs.train(training)
    latents = torch.randn(3, 100)
    assert_twins(ours, theirs, lambda network: output_and_gradients(network, latents))


@pytest.mark.parametrize(("model", "resolution"), DISCRIMINATORS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_discriminators_equal_plain_torch_twins(model, resolution, training):
    ours, theirs = discriminators(model, resolution)
    ours.train(training), theirs.train(training)
    assert_twins(ours, theirs, lambda network: output_and_gradients(network, batches(resolution)[0]))


@pytest.mark.parametrize(("model", "resolution"), PENALISED)
def test_penalised_steps_equal_those_of_plain_torch(model, resolution):
    ours, theirs = discriminators(model, resolution)
    for _ in range(2):  # the second of sngan begins with the vectors that the first left
        assert_twins(ours, theirs, lambda network: penalised_step(network, *batches(resolution)))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("model", "resolution"), [("wgan-gp", 32), ("sngan", 28)])
def test_a_penalised_step_on_the_kernels(model, resolution):
    ours, theirs = discriminators(model, resolution, base=4)
    with use_backend("triton"):
        found = penalised_step(ours, *batches(resolution))
    expected = penalised_step(theirs, *batches(resolution))
    assert_twins(ours, theirs, lambda network: found if network is ours else expected)


@pytest.mark.parametrize("model", ["dcgan", "wgan-gp", "sngan"])
def test_classes_add_rows_and_change_nothing_else(model):
    plain, conditional = (build(model, 28, num_classes, base=64) for num_classes in (None, CLASSES))
    maps = 128 + 128 + 64
    more = num_parameters(conditional.generator) - num_parameters(plain.generator)
    assert more == 2 * maps * (CLASSES - 1)
    assert num_parameters(conditional.discriminator) - num_parameters(plain.discriminator) == CLASSES * 512
    assert plain.generator.num_classes is None
    for network in plain:
        assert type(network.layers) is nn.Sequential
        assert not any(isinstance(m, ConditionalBatchNorm2d | ProjectionHead) for m in network.modules())


@pytest.mark.parametrize("minibatch", ["stddev", "discrimination"])
def test_the_projection_takes_what_is_told_of_the_batch_too(minibatch):
    plain = build("dcgan", 32, None, minibatch=minibatch).discriminator
    conditional = build("dcgan", 32, minibatch=minibatch).discriminator
    assert conditional.layers[-1].embedding.embedding_dim == plain.layers[-1].in_features
    assert conditional(batches(32)[0].float(), LABELS).shape == (3,)


@pytest.mark.parametrize(("model", "deviation"), [("dcgan", 0.02), ("wgan-gp", math.sqrt(2 / (1 + 0.2**2) / 512))])
def test_embeddings_begin_as_linear_layers_do_and_scales_as_published(model, deviation):
    torch.manual_seed(3)
    network, discriminator = build(model, 28, num_classes=50, base=64)
    table = discriminator.layers[-1].embedding.weight
    assert (table.std() / deviation - 1).abs() < 5 / math.sqrt(2 * table.numel())
    for norm in (m for m in network.modules() if isinstance(m, ConditionalBatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


def test_labels_are_neither_forgotten_nor_ignored():
    for network, x in zip(build("dcgan", 16), (torch.randn(3, 100), torch.randn(3, 1, 16, 16)), strict=True):
        with pytest.raises(ValueError, match=r"the network is conditional, expected labels, int64 \[N\]"):
            network(x)
    for network, x in zip(build("dcgan", 16, None), (torch.randn(3, 100), torch.randn(3, 1, 16, 16)), strict=True):
        with pytest.raises(ValueError, match="the network is unconditional and takes no labels"):
            network(x, LABELS)
