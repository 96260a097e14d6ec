import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from twins import assert_twins, copy_weights, num_parameters, output_and_gradients, penalised_step, shake, sngan_trunk

from fastgan.models import build_networks
from fastgan.models.sngan import SNGANDiscriminator
from fastgan.nn import largest_singular_values
from fastgan_kernels import use_backend


def make_twin(base):
    head = torch_spectral_norm(nn.Linear(8 * base, 1))
    return nn.Sequential(*sngan_trunk(base), nn.Flatten(), head, nn.Flatten(0))


def twins(base=8):
    torch.manual_seed(1)
    ours = SNGANDiscriminator(base_channels=base).double()
    theirs = make_twin(base).double()
    shake(ours)
    copy_weights(ours, theirs)
    return ours, theirs


def batches(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 1, 28, 28, generator=generator, dtype=torch.float64) * 2 - 1


def test_28_has_the_specified_number_of_parameters():
    generator, discriminator = build_networks("sngan", resolution=28, num_channels=1)
    assert num_parameters(generator) == 856_065
    assert num_parameters(discriminator) == 2_755_009
    # And torch's, written out, has as many.
    assert num_parameters(make_twin(64)) == 2_755_009


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (16, [64, 128, 256, 512]),
        (28, [64, 128, 256, 512]),
        (32, [64, 128, 256, 512, 512]),
        (256, [64, 128, 256, 512, 512, 512, 512, 512]),
    ],
)
def test_the_last_map_is_one_pixel(resolution, expected):
    discriminator = SNGANDiscriminator(resolution, 1, base_channels=4)
    convolutions = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels * 16 for m in convolutions] == expected
    assert discriminator.layers[-1].in_features == expected[-1] // 16


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_and_gradients_equal_those_of_plain_torch(training):
    ours, theirs = twins(base=16)
    ours.train(training), theirs.train(training)
    for seed in range(2):  # in training the second begins with the vectors that the first left
        x = batches(seed)[0]
        assert_twins(ours, theirs, lambda network, x=x: output_and_gradients(network, x))
    for u_or_v, of_torch in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(u_or_v, of_torch, rtol=1e-12, atol=1e-12)


def test_penalised_steps_equal_those_of_plain_torch():
    ours, theirs = twins(base=16)
    for seed in range(2):
        assert_twins(ours, theirs, lambda network, seed=seed: penalised_step(network, *batches(seed)))


@pytest.mark.exhaustive
def test_a_penalised_step_on_the_kernels():
    ours, theirs = twins(base=2)
    with use_backend("triton"):
        found = penalised_step(ours, *batches(0))
    expected = penalised_step(theirs, *batches(0))
    assert_twins(ours, theirs, lambda network: found if network is ours else expected)


def test_the_largest_singular_values_are_one_and_the_frobenius_norms_are_not():
    torch.manual_seed(4)
    discriminator = SNGANDiscriminator(base_channels=4).double()
    matrices = [p.flatten(1) for p in discriminator.parameters() if p.dim() > 1]
    spectra = [torch.linalg.svdvals(matrix) for matrix in matrices]
    # The angle to the first singular vector shrinks by (s2 / s1)^2 an iteration, and the error of sigma as its square.
    # By random directions alone it begins below 1e4.
    slowest = max((s[1] / s[0]).item() for s in spectra if len(s) > 1)
    iterations = 1
    while 1e8 * slowest ** (4 * iterations) > 1e-9:
        iterations += 1
    before = largest_singular_values(discriminator)
    assert max(before.values()) > 1 + 1e-6  # the vectors that a model begins with are not there yet
    with torch.no_grad():
        for _ in range(iterations):
            discriminator(torch.zeros(1, 1, 28, 28, dtype=torch.float64))
    values = largest_singular_values(discriminator)
    assert len(values) == 5
    for name, value in values.items():
        assert value.item() == pytest.approx(1, abs=1e-8), name
    discriminator.eval()
    frobenius = [layer.weight.norm().item() for layer in discriminator.layers if isinstance(layer, nn.Conv2d)]
    assert len(frobenius) == 4
    assert min(frobenius) > 1.3
