"""The networks of every model but StyleGAN: shapes, ranges, sizes, initial weights, and what is refused."""

import math

import pytest
import torch
from torch import nn

from fastgan.models import build_networks
from fastgan.models.dcgan import RESOLUTIONS, widths
from fastgan.nn import BiasAct, ConditionalBatchNormAct2d

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
        *((model, {"resolution": 0}, "resolution is 0, expected at least 1") for model in ("mlp", "vanilla")),
        ("stylegan", {"resolution": 28}, "resolution 28, only for 8, 16, 32, 64, 128, 256, 512 and 1024"),
        ("dcgan", {"base_channels": 6}, "divide by 4, not 6"),
        ("wgan-gp", {"base_channels": 6}, "wgan-gp at resolution 28 needs base_channels that divide by 4, not 6"),
        *(("vanilla", {name: 0}, f"{name} is 0, expected") for name in ("num_channels", "latent_dim", "base_channels")),
        ("dgcan", {}, "did you mean 'dcgan'"),
        ("dcgan", {"minibatch": "all"}, "minibatch is 'all', expected 'none', 'stddev' or 'discrimination'"),
        ("mlp", {"minibatch": "std"}, "minibatch is 'std', expected 'none', 'stddev' or 'discrimination'"),
        ("dcgan", {"norm": "layer"}, r"unknown option 'norm' of model dcgan; choose from minibatch"),
        ("vanilla", {"norm": "layer"}, "unknown option 'norm' of model vanilla$"),
        ("wgan-gp", {"norm": "batch"}, r"only with 'none' and 'layer', which do not couple"),
        ("wgan-gp", {"norm": "instance"}, "wgan-gp has no critic with norm 'instance'"),
        ("dcgan", {"num_classes": 0}, "num_classes is 0, expected at least 1"),
        *(
            (model, {"num_classes": 3}, rf"model {model} has no conditional form \(dcgan, wgan-gp, sngan have\)")
            for model in ("vanilla", "mlp")
        ),
    ],
)
def test_what_cannot_be_built_is_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        build_networks(model, **{"resolution": 28, "num_channels": 1} | settings)


DCGAN_64 = 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)  # the convolutions of either network
BY_CLASS = 2 * (128 + 128 + 64) * 4, 5 * 512  # scales and shifts of four more classes; an embedding of five


@pytest.mark.parametrize(
    ("model", "resolution", "num_channels", "options", "generator", "discriminator"),
    [
        # SPEC.md; two more colors add 64 * 9 + 1 weights each to the last convolution and 16 * 9 to the first, or
        # 2 * 784 pixels to linear layers.
        ("dcgan", 28, 1, {}, 856_065, 98_113),
        ("dcgan", 28, 3, {}, 856_065 + 2 * 577, 98_113 + 2 * 144),
        ("vanilla", 28, 1, {}, 581_264, 533_505),
        ("vanilla", 28, 3, {}, 581_264 + 1568 * 513, 533_505 + 1568 * 512),
        ("sngan", 28, 1, {}, 856_065, 2_755_009),
        # Without the scales and shifts of 32, 64 and 128 channels, which layer norm has too.
        ("wgan-gp", 28, 1, {}, 856_065, 98_113 - 2 * (32 + 64 + 128)),
        ("wgan-gp", 28, 1, {"norm": "layer"}, 856_065, 98_113),
        ("dcgan", 28, 1, {"num_classes": 5}, 856_065 + BY_CLASS[0], 98_113 + BY_CLASS[1]),
        ("wgan-gp", 28, 1, {"num_classes": 5}, 856_065 + BY_CLASS[0], 97_665 + BY_CLASS[1]),
        ("sngan", 28, 1, {"num_classes": 5}, 856_065 + BY_CLASS[0], 2_755_009 + BY_CLASS[1]),
        (
            *("dcgan", 64, 3, {}),
            100 * 16 * 1024 + DCGAN_64 + 2 * (1024 + 512 + 256 + 128) + 3,
            DCGAN_64 + 128 + 2 * (256 + 512 + 1024) + 16 * 1024 + 1,
        ),
    ],
)
def test_number_of_parameters(model, resolution, num_channels, options, generator, discriminator):
    networks = build_networks(model, resolution=resolution, num_channels=num_channels, **options)
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [generator, discriminator]


@pytest.mark.parametrize("resolution", RESOLUTIONS)
@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_generators_of_dcgan_wgan_gp_and_sngan_are_alike(resolution, num_classes):
    def layout(model):
        sizes = {"resolution": resolution, "num_channels": 1, "base_channels": 4}
        state = build_networks(model, **sizes, num_classes=num_classes).generator.state_dict()
        return {name: t.shape for name, t in state.items()}

    assert layout("dcgan") == layout("wgan-gp") == layout("sngan")


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [(16, [16, 8]), (32, [32, 16, 8]), (128, [64, 64, 32, 16, 8]), (256, [64, 64, 64, 32, 16, 8])],
)
def test_widths_double_towards_the_latent_up_to_eight_times_the_base(resolution, expected):
    assert widths(resolution, 8) == expected


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (16, [64, 128, 256, 512]),
        (28, [64, 128, 256, 512]),
        (32, [64, 128, 256, 512, 512]),
        (256, [64, 128, 256, 512, 512, 512, 512, 512]),
    ],
)
def test_the_last_map_of_sngan_is_one_pixel(resolution, expected):
    layers = build_networks("sngan", resolution=resolution, num_channels=1, base_channels=4).discriminator.layers
    assert [m.out_channels * 16 for m in layers if isinstance(m, nn.Conv2d)] == expected
    assert layers[-1].in_features == expected[-1] // 16


def assert_normal(weight, mean, deviation):
    """Within five standard errors of a mean and of a standard deviation of n normal values."""
    bound = 5 * deviation / math.sqrt(weight.numel())
    assert (weight.double().mean() - mean).abs() < bound
    assert (weight.double().std() - deviation).abs() < bound / math.sqrt(2)


@pytest.mark.parametrize("resolution", [28, 32])
def test_weights_start_as_in_the_paper(resolution):
    torch.manual_seed(3)
    for network in build_networks("dcgan", resolution=resolution, num_channels=1):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert_normal(module.weight, 0, 0.02)
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, nn.BatchNorm2d):
                assert_normal(module.weight, 1, 0.02)
                assert not module.bias.any()


@pytest.mark.parametrize(("model", "deviation"), [("dcgan", 0.02), ("wgan-gp", math.sqrt(2 / (1 + 0.2**2) / 512))])
def test_embeddings_start_like_linear_layers_and_scales_as_published(model, deviation):
    torch.manual_seed(3)
    network, discriminator = build_networks(model, resolution=28, num_channels=1, num_classes=50)
    assert_normal(discriminator.layers[-1].embedding.weight, 0, deviation)
    for norm in (m for m in network.modules() if isinstance(m, ConditionalBatchNormAct2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


@pytest.mark.parametrize("resolution", [28, 64])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_a_critic_starts_with_gradients_of_the_order_of_one(resolution, norm):
    """The penalty aims at 1; with DCGAN's initial weights it would be 0.0002 and 0.02 without a norm."""
    torch.manual_seed(0)
    _, critic = build_networks("wgan-gp", resolution=resolution, num_channels=1, base_channels=32, norm=norm)
    x = (torch.rand(3, 1, resolution, resolution) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(critic.eval()(x).sum(), x)
    assert 0.2 < gradient.flatten(1).norm(dim=1).mean() < 5


def test_labels_are_required_with_classes_and_refused_without():
    inputs = torch.randn(3, 100), torch.randn(3, 1, 16, 16)
    for num_classes, labels, message in (
        (5, (), r"the network is conditional, expected labels, int64 \[N\]"),
        (None, (torch.tensor([3, 0, 4]),), "the network is unconditional and takes no labels"),
    ):
        networks = build_networks("dcgan", resolution=16, num_channels=1, base_channels=4, num_classes=num_classes)
        for network, x in zip(networks, inputs, strict=True):
            with pytest.raises(ValueError, match=message):
                network(x, *labels)
