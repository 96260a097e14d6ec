"""Conditional networks: generators with a scale and shift a class, discriminators with a projection."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from twins import assert_twins, copy_weights, num_parameters, output_and_gradients, penalised_step, shake

from fastgan.models import build_networks
from fastgan.nn import ConditionalBatchNorm2d, ProjectionHead, largest_singular_values
from fastgan.regularizers import wgan_gp
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


def generator_28(base):
    wide = 2 * base
    return nn.Sequential(
        nn.Linear(100, wide * 49),
        nn.Unflatten(1, (wide, 7, 7)),
        ByClass(wide),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, wide, 3, padding=1),
        ByClass(wide),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, base, 3, padding=1),
        ByClass(base),
        nn.ReLU(),
        nn.Conv2d(base, 1, 3, padding=1),
        nn.Tanh(),
    )


def generator_32(base):
    return nn.Sequential(
        nn.Linear(100, 4 * base * 16, bias=False),
        nn.Unflatten(1, (4 * base, 4, 4)),
        ByClass(4 * base),
        nn.ReLU(),
        nn.ConvTranspose2d(4 * base, 2 * base, 4, 2, 1, bias=False),
        ByClass(2 * base),
        nn.ReLU(),
        nn.ConvTranspose2d(2 * base, base, 4, 2, 1, bias=False),
        ByClass(base),
        nn.ReLU(),
        nn.ConvTranspose2d(base, 1, 4, 2, 1),
        nn.Tanh(),
    )


def discriminator_28(base, batch_norm):
    layers, c_in = [], 1
    for i, c_out in enumerate([base // 4, base // 2, base, 2 * base]):
        layers += [nn.Conv2d(c_in, c_out, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout2d(0.25)]
        if batch_norm and i > 0:
            layers.append(nn.BatchNorm2d(c_out))
        c_in = c_out
    return nn.Sequential(*layers, nn.Flatten(), Projection(c_in * 4))


def discriminator_32(base, batch_norm):
    layers = [nn.Conv2d(1, base, 4, 2, 1), nn.LeakyReLU(0.2)]
    for c_in, c_out in [(base, 2 * base), (2 * base, 4 * base)]:
        layers.append(nn.Conv2d(c_in, c_out, 4, 2, 1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(c_out))
        layers.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*layers, nn.Flatten(), Projection(4 * base * 16))


def discriminator_sngan(base):
    layers, c_in = [], 1
    for c_out in [base, 2 * base, 4 * base, 8 * base]:
        layers += [torch_spectral_norm(nn.Conv2d(c_in, c_out, 4, 2, 1)), nn.LeakyReLU(0.1)]
        c_in = c_out
    return nn.Sequential(*layers, nn.Flatten(), Projection(c_in, torch_spectral_norm))


GENERATORS = {28: generator_28, 32: generator_32}
DISCRIMINATORS = {
    ("dcgan", 28): lambda base: discriminator_28(base, batch_norm=True),
    ("dcgan", 32): lambda base: discriminator_32(base, batch_norm=True),
    ("wgan-gp", 28): lambda base: discriminator_28(base, batch_norm=False),
    ("wgan-gp", 32): lambda base: discriminator_32(base, batch_norm=False),
    ("sngan", 28): discriminator_sngan,
}
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
    return pair(network, DISCRIMINATORS[model, resolution](base))


def batches(resolution):
    generator = torch.Generator().manual_seed(3)
    return torch.rand(2, 3, 1, resolution, resolution, generator=generator, dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("model", ["dcgan", "wgan-gp", "sngan"])
@pytest.mark.parametrize("resolution", GENERATORS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_generators_equal_plain_torch_twins(model, resolution, training):
    torch.manual_seed(1)
    ours, theirs = pair(build(model, resolution).generator, GENERATORS[resolution](8))
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


@pytest.mark.parametrize(("model", "resolution"), [("wgan-gp", 32), ("sngan", 28)])
def test_a_penalised_step_on_the_kernels(model, resolution):
    ours, theirs = discriminators(model, resolution, base=4)
    with use_backend("triton"):
        found = penalised_step(ours, *batches(resolution))
    expected = penalised_step(theirs, *batches(resolution))
    assert_twins(ours, theirs, lambda network: found if network is ours else expected)


@pytest.mark.parametrize(("model", "resolution"), PENALISED)
def test_the_penalty_reaches_the_embeddings_of_the_labels_and_no_others(model, resolution):
    ours, _ = discriminators(model, resolution)
    head = ours.network.layers[-1].embedding
    table = head.parametrizations.weight.original if model == "sngan" else head.weight
    (gradient,) = torch.autograd.grad(wgan_gp(ours, *batches(resolution)), table)
    assert gradient[LABELS].any(1).all()
    if model != "sngan":  # whose largest singular value is of all rows
        assert not gradient[[1, 2]].any()


@pytest.mark.parametrize("model", ["dcgan", "wgan-gp", "sngan"])
@pytest.mark.parametrize("resolution", [16, 28, 32, 64, 128, 256])
def test_images_are_in_range_and_logits_are_one_a_sample(model, resolution):
    torch.manual_seed(0)
    generator, discriminator = build(model, resolution, base=4)
    assert generator.num_classes == CLASSES
    images = generator(torch.randn(3, 100), LABELS)
    assert images.shape == (3, 1, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images, LABELS).shape == (3,)


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


def test_every_weight_of_sngan_is_normalised_the_embedding_too():
    discriminator = build("sngan", 28).discriminator
    weights = [name for name, parameter in discriminator.named_parameters() if parameter.dim() > 1]
    assert len(weights) == len(largest_singular_values(discriminator)) == 6
    assert all(name.endswith(".parametrizations.weight.original") for name in weights)


@pytest.mark.parametrize(("model", "deviation"), [("dcgan", 0.02), ("wgan-gp", math.sqrt(2 / (1 + 0.2**2) / 512))])
def test_embeddings_begin_as_linear_layers_do_and_scales_as_published(model, deviation):
    torch.manual_seed(3)
    generator, discriminator = build(model, 28, num_classes=50, base=64)
    table = discriminator.layers[-1].embedding.weight
    assert (table.std() / deviation - 1).abs() < 5 / math.sqrt(2 * table.numel())
    for norm in (m for m in generator.modules() if isinstance(m, ConditionalBatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


@pytest.mark.parametrize("model", ["vanilla", "mlp"])
def test_a_model_without_a_conditional_form_names_those_with_one(model):
    with pytest.raises(ValueError, match=rf"model {model} has no conditional form \(dcgan, wgan-gp, sngan have\)"):
        build_networks(model, resolution=16, num_channels=1, num_classes=3)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes is 0, expected at least 1"):
        build("dcgan", 28, num_classes=0)


def test_labels_are_neither_forgotten_nor_ignored():
    for network, x in zip(build("dcgan", 16), (torch.randn(3, 100), torch.randn(3, 1, 16, 16)), strict=True):
        with pytest.raises(ValueError, match=r"the network is conditional, expected labels, int64 \[N\]"):
            network(x)
    for network, x in zip(build("dcgan", 16, None), (torch.randn(3, 100), torch.randn(3, 1, 16, 16)), strict=True):
        with pytest.raises(ValueError, match="the network is unconditional and takes no labels"):
            network(x, LABELS)
