import math

import pytest
import torch
from torch import nn
from twins import (
    assert_twins,
    copy_weights,
    generator_twin,
    num_parameters,
    output_and_gradients,
    shake,
    trunk,
    trunk_features,
    with_head,
)

from fastgan.models import build_networks
from fastgan.models.dcgan import widths
from fastgan.nn import BiasAct
from fastgan_kernels.reference import minibatch_discrimination, minibatch_stddev


@pytest.mark.parametrize(
    ("num_channels", "generator", "discriminator"),
    # SPEC.md; a second and third colour add 64 * 9 + 1 weights to the last convolution and 16 * 9 to the first.
    [(1, 856_065, 98_113), (3, 856_065 + 2 * 577, 98_113 + 2 * 144)],
)
def test_28_has_the_specified_number_of_parameters(num_channels, generator, discriminator):
    networks = build_networks("dcgan", resolution=28, num_channels=num_channels)
    assert num_parameters(networks.generator) == generator
    assert num_parameters(networks.discriminator) == discriminator


def test_64_has_the_papers_widths_and_number_of_parameters():
    assert widths(64, 128) == [1024, 512, 256, 128]
    networks = build_networks("dcgan", resolution=64, num_channels=3)
    convolutions = 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3)
    assert num_parameters(networks.generator) == 100 * 16 * 1024 + convolutions + 2 * (1024 + 512 + 256 + 128) + 3
    assert num_parameters(networks.discriminator) == convolutions + 128 + 2 * (256 + 512 + 1024) + 16 * 1024 + 1


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [(16, [16, 8]), (32, [32, 16, 8]), (128, [64, 64, 32, 16, 8]), (256, [64, 64, 64, 32, 16, 8])],
)
def test_widths_double_towards_the_latent_up_to_eight_times_the_base(resolution, expected):
    assert widths(resolution, 8) == expected


@pytest.mark.parametrize(("resolution", "base_channels"), [(28, 16), (64, 8)], ids=["28", "64"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_networks_equal_plain_torch_twins(resolution, base_channels, training):
    torch.manual_seed(1)
    twins = (
        generator_twin(resolution, base_channels),
        with_head(trunk(resolution, base_channels), trunk_features(resolution, base_channels)),
    )
    networks = build_networks("dcgan", resolution=resolution, num_channels=1, base_channels=base_channels)
    inputs = (torch.randn(4, 100), torch.rand(4, 1, resolution, resolution) * 2 - 1)
    for network, twin, x in zip(networks, twins, inputs, strict=True):
        network.double().train(training)
        twin.double().train(training)
        shake(network)
        copy_weights(network, twin)
        assert_twins(network, twin, lambda n, x=x: output_and_gradients(n, x))


def test_fused_layers_stand_where_leaky_relu_follows_a_bias():
    def count(resolution):
        discriminator = build_networks("dcgan", resolution=resolution, num_channels=1, base_channels=4).discriminator
        return sum(isinstance(m, BiasAct) for m in discriminator.modules())

    assert count(28) == 4
    assert count(64) == 1


@pytest.mark.parametrize("resolution", [28, 32])
def test_weights_start_as_in_the_paper(resolution):
    torch.manual_seed(3)
    for network in build_networks("dcgan", resolution=resolution, num_channels=1):
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                weight = module.weight.double()
                # Five standard errors of a mean and of a standard deviation of n normal values.
                assert weight.mean().abs() < 5 * 0.02 / math.sqrt(weight.numel())
                assert (weight.std() - 0.02).abs() < 5 * 0.02 / math.sqrt(2 * weight.numel())
                assert module.bias is None or not module.bias.any()
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.weight.mean() - 1).abs() < 5 * 0.02 / math.sqrt(module.num_features)
                assert module.weight.std() > 0
                assert not module.bias.any()


class StdDev(nn.Module):
    def forward(self, x):
        return minibatch_stddev(x)


class Discrimination(nn.Module):
    """100 kernels of 5 components, as in the code of Salimans et al. 2016."""

    def __init__(self, in_features):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, 500))

    def forward(self, x):
        return torch.cat([x, minibatch_discrimination((x @ self.weight).view(-1, 100, 5))], dim=1)


@pytest.mark.parametrize(("resolution", "base_channels", "num_pixels"), [(28, 16, 4), (64, 4, 16)], ids=["28", "64"])
@pytest.mark.parametrize("minibatch", ["stddev", "discrimination"])
def test_a_head_that_sees_the_batch(resolution, base_channels, num_pixels, minibatch):
    torch.manual_seed(1)
    num_features = trunk_features(resolution, base_channels)
    settings = {"resolution": resolution, "num_channels": 1, "base_channels": base_channels}
    plain = build_networks("dcgan", **settings).discriminator
    network = build_networks("dcgan", **settings, minibatch=minibatch).discriminator
    if minibatch == "stddev":
        more = num_pixels
        head = [StdDev(), nn.Flatten()]
    else:
        more = 100
        head = [nn.Flatten(), Discrimination(num_features)]
    twin = nn.Sequential(*trunk(resolution, base_channels), *head, nn.Linear(num_features + more, 1), nn.Flatten(0))
    projection = num_features * 500 if minibatch == "discrimination" else 0
    assert num_parameters(network) == num_parameters(plain) + more + projection

    network.double(), twin.double()
    shake(network)
    copy_weights(network, twin)
    x = torch.rand(6, 1, resolution, resolution) * 2 - 1
    assert_twins(network, twin, lambda n: output_and_gradients(n, x))

    # In evaluation batch norm couples no samples, so that only this head does.
    for module, sees_others in ((network, True), (plain.double(), False)):
        leaf = x.double().requires_grad_()
        (gradient,) = torch.autograd.grad(module.eval()(leaf)[0], leaf)
        assert gradient[0].any()
        assert bool(gradient[1:].any()) == sees_others
