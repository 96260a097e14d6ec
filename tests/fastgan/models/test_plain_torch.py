"""The networks of every model but StyleGAN equal networks in plain torch: outputs, gradients, a penalized step."""

import pytest
import torch
from torch import nn
from twins import (
    CLASSES,
    LABELS,
    ByClass,
    assert_twins,
    by_kind,
    copy_weights,
    discriminator_twin,
    generator_twin,
    mlp_twins,
    output_and_gradients,
    penalized_step,
    shake,
    vanilla_twins,
)

from fastgan.models import build_networks
from fastgan.nn import BiasAct
from fastgan.regularizers import compile_step, r1, wgan_gp
from fastgan_kernels import use_backend


class Bound(nn.Module):
    """A conditional network with its labels, so that it is compared as the others are."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x, LABELS)


def networks_and_twins(model, resolution, base=8, num_classes=None, **options):
    """Generator and discriminator, each with its twin, in float64 with the same weights."""
    torch.manual_seed(1)
    shape = {"mlp": {"num_channels": 2, "latent_dim": 16}}.get(model, {"num_channels": 1})
    if num_classes:
        shape["num_classes"] = num_classes
    networks = build_networks(model, resolution=resolution, base_channels=base, **shape, **options)
    if model == "mlp":
        twins = mlp_twins(base, **options)
    elif model == "vanilla":
        twins = vanilla_twins(base)
    else:
        norm = ByClass if num_classes else nn.BatchNorm2d
        twins = (
            generator_twin(resolution, base, norm),
            discriminator_twin(model, resolution, base, num_classes, **options),
        )
    pairs = []
    for network, twin in zip(networks, twins, strict=True):
        ours, theirs = (Bound(network) if num_classes else network).double(), twin.double()
        shake(ours)
        copy_weights(ours, theirs)
        pairs.append((ours, theirs))
    return pairs


def batches(*shape):
    random = torch.Generator().manual_seed(3)
    return torch.rand(2, 6, *shape, generator=random, dtype=torch.float64) * 2 - 1


def images(model, resolution):
    return batches(2 if model == "mlp" else 1, resolution, resolution)


CONVOLUTIONAL = [
    ("dcgan", 28, {}),
    ("dcgan", 32, {}),
    *(("dcgan", resolution, {"minibatch": m}) for resolution in (28, 32) for m in ("stddev", "discrimination")),
    *(("wgan-gp", resolution, {"norm": norm}) for resolution in (28, 32) for norm in ("none", "layer")),
    ("sngan", 28, {}),
]
BY_CLASS = [
    *((model, resolution, {"num_classes": CLASSES}) for model in ("dcgan", "wgan-gp") for resolution in (28, 32)),
    ("sngan", 28, {"num_classes": CLASSES}),
    *(("dcgan", 32, {"num_classes": CLASSES, "minibatch": m}) for m in ("stddev", "discrimination")),
]
OTHERS = [("vanilla", 28, {}), *(("mlp", 1, {"minibatch": m}) for m in ("none", "stddev", "discrimination"))]
CRITICS = [case for case in (*CONVOLUTIONAL, *BY_CLASS, *OTHERS) if case[0] in ("wgan-gp", "sngan")]


@pytest.mark.parametrize(("model", "resolution", "options"), [*CONVOLUTIONAL, *BY_CLASS, *OTHERS])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_in_both_modes(model, resolution, options, training):
    pairs = networks_and_twins(model, resolution, **options)
    latents = torch.randn(6, 16 if model == "mlp" else 100)
    for (network, twin), x in zip(pairs, (latents, images(model, resolution)[0]), strict=True):
        network.train(training), twin.train(training)
        for _ in range(2):  # in training the second begins with the u and v that the first left
            assert_twins(network, twin, lambda n, x=x: output_and_gradients(n, x))
        for ours, theirs in zip(network.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("model", "resolution", "options"), [*CRITICS, *(case for case in OTHERS if case[0] == "mlp")])
def test_a_penalized_step(model, resolution, options):
    _, (critic, twin) = networks_and_twins(model, resolution, **options)
    for _ in range(2):
        assert_twins(critic, twin, lambda n: penalized_step(n, *images(model, resolution)))


@pytest.mark.parametrize(
    ("model", "resolution", "base", "options"),
    [
        ("mlp", 1, 8, {"minibatch": "discrimination"}),
        ("wgan-gp", 28, 4, {}),
        ("wgan-gp", 32, 4, {}),
        pytest.param("sngan", 28, 2, {}, marks=pytest.mark.exhaustive),
        pytest.param("wgan-gp", 32, 4, {"num_classes": CLASSES}, marks=pytest.mark.exhaustive),
        pytest.param("sngan", 28, 4, {"num_classes": CLASSES}, marks=pytest.mark.exhaustive),
    ],
)
def test_a_penalized_step_on_the_kernels(model, resolution, base, options):
    _, (critic, twin) = networks_and_twins(model, resolution, base, **options)
    with use_backend("triton"):
        found = penalized_step(critic, *images(model, resolution))
    expected = penalized_step(twin, *images(model, resolution))
    assert_twins(critic, twin, lambda network: found if network is critic else expected)


@pytest.fixture
def fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["triton", pytest.param("reference", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("penalty", ["wgan_gp", pytest.param("r1", marks=pytest.mark.exhaustive)])
def test_two_compiled_steps_with_a_penalty(backend, penalty, fresh_compiler):
    """Of sngan: the group of spectral norms, convolutions, bias and activation. Compiling takes some seconds."""
    _, (critic, twin) = networks_and_twins("sngan", 28, 2)

    def step(critic, parameters, real, fake):
        share = torch.full_like(real[:, :1, :1, :1], 0.3)
        more = wgan_gp(critic, real, fake, alpha=share) if penalty == "wgan_gp" else r1(critic, real)
        return torch.autograd.grad(critic(fake).mean() - critic(real).mean() + more, parameters)

    compiled = compile_step(step, backend="aot_eager")
    real, fake = images("sngan", 28)[:, :2]
    for _ in range(2):  # the second begins with the u and v that the first left
        with use_backend(backend):
            found = compiled(critic, by_kind(critic), real, fake)
        for ours, theirs in zip(found, step(twin, by_kind(twin), real, fake), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_bias_before_a_leaky_relu_is_fused_with_it():
    def count(model, resolution):
        networks = build_networks(model, resolution=resolution, num_channels=1, base_channels=4)
        return [sum(isinstance(m, BiasAct) for m in network.modules()) for network in networks]

    counts = {("dcgan", 28): [0, 4], ("dcgan", 64): [0, 1], ("wgan-gp", 64): [0, 4], ("sngan", 28): [0, 4]}
    counts |= {("vanilla", 28): [1, 2], ("mlp", 1): [3, 3]}
    assert {key: count(*key) for key in counts} == counts
