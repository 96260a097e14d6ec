import pytest
import torch
from torch import nn

from fastgan.models import build_networks
from fastgan.sampling import draw_latents, generate, render


@pytest.fixture
def generator():
    torch.manual_seed(0)
    network = build_networks("dcgan", resolution=16, num_channels=1, latent_dim=9, base_channels=4).generator
    network(torch.randn(32, 9))  # gives batch norm running statistics that are not its first
    return network


class Identity(nn.Module):
    """A generator whose image is its latent, so that only drawing and batching are compared."""

    latent_dim = 5

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, latents):
        return latents[:, None, None, :] * self.weight


def test_a_seed_gives_the_same_images(generator):
    images = generate(generator, 21, seed=3)
    assert torch.equal(generate(generator, 21, seed=3), images)
    assert not torch.equal(generate(generator, 21, seed=4), images)
    assert torch.equal(generate(Identity(), 21, seed=3), draw_latents(21, 5, seed=3)[:, None, None])


MODELS = {
    "vanilla": {"resolution": 28},
    "dcgan": {"resolution": 16, "base_channels": 8},
    "conditional": {"resolution": 28, "base_channels": 8, "num_classes": 3},
    "stylegan": {"resolution": 16, "base_channels": 8},
    "mlp": {"resolution": 1, "num_channels": 2},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_an_image_do_not_depend_on_the_others(name):
    torch.manual_seed(0)
    model = "dcgan" if name == "conditional" else name
    network = build_networks(model, **{"num_channels": 1, "latent_dim": 8} | MODELS[name]).generator
    latents = draw_latents(37, 8, seed=1)
    labels = None if network.num_classes is None else torch.arange(37) % network.num_classes
    images = render(network, latents, labels)
    for rows in (slice(0, 1), slice(0, 5), slice(30, 37), slice(36, None, None), slice(3, 37, 2)):
        assert torch.equal(render(network, latents[rows], None if labels is None else labels[rows]), images[rows])


@pytest.mark.parametrize("more", [1, 6, 29])
def test_more_images_begin_with_the_same_ones(more):
    assert torch.equal(draw_latents(5 + more, 7, seed=1)[:5], draw_latents(5, 7, seed=1))


def test_latents_are_standard_normal():
    latents = draw_latents(2000, 50, seed=0)
    assert latents.shape == (2000, 50)
    # Five standard errors of the mean and variance of 100,000 values.
    assert latents.mean().abs() < 5 / 100_000**0.5
    assert (latents.var() - 1).abs() < 5 * (2 / 100_000) ** 0.5


def test_latents_of_a_seed_are_not_the_weights_that_are_drawn_from_it():
    torch.manual_seed(0)
    network = build_networks("stylegan", resolution=8, num_channels=1, latent_dim=64, base_channels=32).generator
    weight = network.mapping[1].weight.detach()
    latents = draw_latents(32, 64, seed=0)
    # Cosines of independent vectors have a standard deviation of 1 / sqrt(64); 1,024 of them stay within five.
    cosines = torch.nn.functional.cosine_similarity(weight[:, None], latents[None], dim=2)
    assert cosines.abs().max() < 5 / 64**0.5


def test_every_bit_of_a_seed_counts():
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1]
    assert len({draw_latents(1, 4, seed=seed).numpy().tobytes() for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("training", [True, False])
def test_rendering_uses_running_statistics_and_restores_the_mode(generator, training):
    generator.train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    images = render(generator, draw_latents(4, 9, seed=0))
    assert generator.training is training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert torch.equal(images, generator.eval()(draw_latents(16, 9, seed=0)).detach()[:4])


class ShowsLabels(nn.Module):
    """A conditional generator whose image is its label, beside the latent."""

    latent_dim, num_classes = 2, 3

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, latents, labels):
        return torch.cat([labels[:, None], latents], dim=1)[:, None, None] * self.weight


def test_each_image_has_the_given_label():
    labels = torch.tensor([2, 0, 0, 1, 2, 2, 0])
    images = generate(ShowsLabels(), 7, labels=labels, seed=3)
    assert torch.equal(images[:, 0, 0, 0], labels.float())
    assert torch.equal(images[:, 0, 0, 1:], draw_latents(7, 2, seed=3))  # which do not depend on the labels
    assert generate(ShowsLabels(), 7)[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("network", "labels", "message"),
    [
        (ShowsLabels(), [0, 3], "labels are from 0 to 3, expected class numbers from 0 to 2"),
        (ShowsLabels(), [-1, 2], "labels are from -1 to 2, expected class numbers from 0 to 2"),
        (ShowsLabels(), [0], r"labels have shape \[1\], expected \[2\], one for each image"),
        (Identity(), [0, 0], "the generator is unconditional and takes no labels"),
    ],
)
def test_labels_that_a_generator_does_not_have_are_refused(network, labels, message):
    with pytest.raises(ValueError, match=message):
        generate(network, 2, labels=torch.tensor(labels))
