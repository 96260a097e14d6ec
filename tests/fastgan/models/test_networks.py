"""What the networks of every model have in common: shapes, ranges, fused layers, and what is refused."""

import pytest
import torch
from torch import nn

from fastgan.models import build_networks
from fastgan.models.dcgan import RESOLUTIONS, DCGAN28Discriminator, DCGANDiscriminator
from fastgan.models.wgan_gp import build_wgan_gp
from fastgan.nn import BiasAct

CONVOLUTIONAL = ["dcgan", "sngan", "wgan-gp"]
# Each resolution with one color and three, with classes and without.
SHAPES = [
    *((model, resolution, channels) for model in CONVOLUTIONAL for resolution in RESOLUTIONS for channels in (1, 3)),
    *((model, *shape) for model in ("mlp", "vanilla") for shape in ((1, 2), (5, 1), (32, 3))),
]


@pytest.mark.parametrize(("model", "resolution", "num_channels"), SHAPES)
def test_images_are_in_range_and_logits_are_one_a_sample(model, resolution, num_channels):
    torch.manual_seed(0)
    by_class = model in CONVOLUTIONAL and num_channels == 3
    sizes = {"resolution": resolution, "num_channels": num_channels, "latent_dim": 7, "base_channels": 4}
    generator, discriminator = build_networks(model, **sizes, num_classes=5 if by_class else None)
    labels = [torch.tensor([3, 0])] if by_class else []
    assert generator.num_classes == (5 if by_class else None)
    assert generator.latent_dim == 7
    images = generator(torch.randn(2, 7), *labels)
    assert images.shape == (2, num_channels, resolution, resolution)
    assert images.abs().max() <= 1
    assert discriminator(images, *labels).shape == (2,)
    if model in ("sngan", "wgan-gp"):  # every activation follows a bias
        layers = list(discriminator.modules())
        assert not any(isinstance(m, nn.LeakyReLU | nn.BatchNorm2d | nn.Sigmoid) for m in layers)
        slopes = [m.negative_slope for m in layers if isinstance(m, BiasAct)]
        assert slopes == [0.1 if model == "sngan" else 0.2] * sum(isinstance(m, nn.Conv2d) for m in layers)


ONLY = "only for 16, 28, 32, 64, 128 and 256"


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        *((model, {"resolution": 20}, f"{model} has no networks for resolution 20, {ONLY}") for model in CONVOLUTIONAL),
        *((model, {"resolution": 0}, "for resolution 0, only for 1 and more") for model in ("mlp", "vanilla")),
        ("stylegan", {"resolution": 28}, "resolution 28, only for 8, 16, 32, 64, 128, 256, 512 and 1024"),
        ("dcgan", {"base_channels": 6}, "divide by 4, not 6"),
        ("wgan-gp", {"base_channels": 6}, "wgan-gp at resolution 28 needs base_channels that divide by 4, not 6"),
        *(("vanilla", {name: 0}, f"{name} is 0, expected") for name in ("num_channels", "latent_dim", "base_channels")),
        ("dgcan", {}, "did you mean 'dcgan'"),
        ("dcgan", {"minibatch": "all"}, "minibatch is 'all', expected 'none', 'stddev' or 'discrimination'"),
        ("mlp", {"minibatch": "std"}, "minibatch is 'std', expected 'none', 'stddev' or 'discrimination'"),
        ("dcgan", {"norm": "layer"}, r"unknown option 'norm' of model dcgan; choose from minibatch"),
        ("vanilla", {"norm": "layer"}, "unknown option 'norm' of model vanilla$"),
        ("wgan-gp", {"norm": "batch"}, r"depend on the whole batch.*use norm 'none' or 'layer'"),
        ("wgan-gp", {"norm": "instance"}, "wgan-gp has no critic with norm 'instance'"),
        ("dcgan", {"num_classes": 0}, "num_classes is 0, expected at least 1"),
        *(
            (model, {"num_classes": 3}, rf"model {model} has no conditional form \(dcgan, wgan-gp, sngan have\)")
            for model in ("vanilla", "mlp")
        ),
    ],
)
def test_what_cannot_be_built_is_refused(model, settings, message):
    build = build_wgan_gp if "norm" in settings and model == "wgan-gp" else build_networks
    with pytest.raises(ValueError, match=message):
        build(*([model] if build is build_networks else []), **{"resolution": 28, "num_channels": 1} | settings)


def test_an_unknown_norm_is_refused_by_the_discriminators():
    for build in (DCGAN28Discriminator, lambda **norm: DCGANDiscriminator(32, 1, **norm)):
        with pytest.raises(ValueError, match="norm is 'none at all', expected 'batch', 'layer' or 'none'"):
            build(norm="none at all")
