"""Spectral normalization of one module, against torch's parametrization and the cases of torch's own tests for it."""

import copy
from collections.abc import Callable

import pytest
import torch
from critics import assert_same, wgan_gp_step
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.nn.utils.spectral_norm import spectral_norm as hooked_spectral_norm

from fastgan.nn import spectral_norm, spectral_norm_

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 6)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (2, 3)), (2, 3, 4, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(3, 4, 3), (2, 3, 4)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(3, 4, (2, 3), stride=2), (2, 3, 3, 4)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(2, 3, 2), (2, 2, 3, 2, 2)),
    "grouped convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 4, 4)),
    "channels-last convolution": (
        lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
        (2, 3, 4, 5),
    ),
}
CASES = pytest.mark.parametrize("case", LAYERS)


def layer_of(case: str) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[case][0]().double()


def images(case: str, seed: int) -> torch.Tensor:
    return torch.randn(LAYERS[case][1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("case", "backend"), [*((case, "auto") for case in LAYERS), ("conv_transpose2d", "triton")], indirect=["backend"]
)
def test_three_training_steps_are_those_of_torch(case: str, backend: str):
    ours, theirs = layer_of(case), layer_of(case)
    # Equal seeds give equal vectors too.
    torch.manual_seed(2)
    spectral_norm(ours)
    torch.manual_seed(2)
    torch_spectral_norm(theirs)
    assert_same(ours, theirs)
    make = torch.optim.Adam if "linear" in case else torch.optim.SGD
    optimizers = [make(layer.parameters(), lr=0.05) for layer in (ours, theirs)]
    for step in range(3):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            wgan_gp_step(layer, optimizer, images(case, 2 * step), images(case, 2 * step + 1))
        assert_same(ours, theirs)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("backend", "zeroed", "whole"),
    [
        ("reference", 0, False),
        ("reference", 4, True),
        ("triton", 4, False),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (("triton", 0, False), ("triton", 4, True))),
    ],
    indirect=["backend"],
)
def test_training_leaves_a_weight_of_zeros(backend: str, zeroed: int, whole: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 1)).double()
    nn.init.zeros_(model[zeroed].weight)
    if whole:
        spectral_norm_(model)
    else:
        for layer in (model[0], model[3], model[4]):
            spectral_norm(layer)
    assert not model[zeroed].weight.any()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    real, fake = torch.randn(2, 4, 2, 4, 4, dtype=torch.float64)
    for _ in range(4):
        wgan_gp_step(model, optimizer, real, fake)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    norm = torch.linalg.matrix_norm(model[zeroed].weight.flatten(1), ord=2)
    torch.testing.assert_close(norm, torch.ones_like(norm), rtol=0.1, atol=0)


@pytest.mark.parametrize("backend", ["triton", "reference"], indirect=True)
def test_an_embedding_with_sparse_gradients(backend: str):
    gradients = []
    for sparse in (True, False):
        torch.manual_seed(0)
        layer = spectral_norm(nn.Embedding(9, 5, sparse=sparse).double())
        layer(torch.tensor([1, 2, 1])).square().sum().backward()
        gradients.append(layer.parametrizations.weight.original.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_vector_of_zeros_is_left_as_it_is_to_the_second_order():
    layer = spectral_norm(nn.Linear(3, 4).double(), "bias")
    original = layer.parametrizations.bias.original
    nn.init.zeros_(original)
    bias = layer.bias
    assert not bias.any()
    (gradient,) = torch.autograd.grad((bias + bias.square()).sum(), original, create_graph=True)
    assert torch.equal(gradient, torch.ones_like(bias))
    (second,) = torch.autograd.grad(gradient.sum(), original)
    assert torch.equal(second, 2 * torch.ones_like(bias))


@CASES
def test_checkpoints_of_the_older_hooks_load(case: str):
    older, ours = hooked_spectral_norm(layer_of(case)), spectral_norm(LAYERS[case][0]().double())
    older(images(case, 0))
    state = older.state_dict()
    assert sorted(state) == ["bias", "weight_orig", "weight_u", "weight_v"]
    ours.load_state_dict(state, strict=True)
    assert "weight_u" in state
    torch.testing.assert_close(ours.eval()(images(case, 1)), older.eval()(images(case, 1)))


@pytest.mark.parametrize("dim", [None, 0, 1, 2, -1, -4])
def test_dim_chooses_the_rows(dim: int | None):
    ours, theirs = nn.ConvTranspose2d(3, 4, (5, 6)), nn.ConvTranspose2d(3, 4, (5, 6))
    spectral_norm(ours, dim=dim)
    torch_spectral_norm(theirs, dim=dim)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    assert_same(ours.double(), theirs.double())


def test_settings_are_those_of_torch():
    ours, theirs = nn.Linear(4, 6).double(), nn.Linear(4, 6).double()
    spectral_norm(ours, "weight", 3, 1e-1)
    torch_spectral_norm(theirs, "weight", 3, 1e-1)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.parametrizations.weight.original *= 0.05  # so that eps counts
    for _ in range(2):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-12, atol=1e-12)
    assert_same(ours, theirs)
    assert "n_power_iterations=3" in repr(ours)
    assert "eps=0.1" in repr(ours)


def test_removal_leaves_the_normalized_weight():
    layer = spectral_norm(nn.Linear(5, 7).double())
    x = torch.randn(3, 5, dtype=torch.float64)
    for _ in range(3):
        before = layer(x)
    original = layer.parametrizations.weight.original
    layer.eval()
    parametrize.remove_parametrizations(layer, "weight")
    assert not hasattr(layer, "parametrizations")
    assert layer.weight is original
    torch.testing.assert_close(layer(x), before)
    spectral_norm(layer.train())
    layer.load_state_dict(layer.state_dict())


def test_parts_of_a_state_and_what_does_not_belong_to_it():
    layer = spectral_norm(nn.Linear(3, 5).double())
    state = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "nonsense"'):
        layer.load_state_dict({**state, "nonsense": 1}, strict=True)
    partial = copy.deepcopy(state)
    for key in state:
        del partial[key]
        layer.load_state_dict(partial, strict=False)


def test_an_assigned_weight_is_the_original():
    layer = spectral_norm(nn.Linear(3, 3).double())
    layer.weight = 5 * torch.eye(3, dtype=torch.float64)
    assert torch.equal(layer.parametrizations.weight.original, 5 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(layer.weight, torch.eye(3, dtype=torch.float64))


def test_bad_arguments_of_spectral_norm_are_refused_in_a_sentence():
    layer = nn.Linear(3, 4)
    complex_layer = nn.Linear(3, 4, dtype=torch.complex64)
    for arguments, error, message in [
        ((torch.zeros(3),), TypeError, "module is a Tensor, expected a torch.nn.Module"),
        ((layer, "wait"), ValueError, "Linear has no parameter or buffer 'wait'"),
        ((nn.Linear(3, 4, bias=False), "bias"), ValueError, "Linear has no parameter or buffer 'bias'"),
        ((nn.LazyLinear(4),), ValueError, "weight is uninitialized"),
        ((complex_layer,), TypeError, "weight is torch.complex64, expected a real floating-point"),
        ((layer, "weight", 0), ValueError, "n_power_iterations is 0, expected at least 1"),
        ((layer, "weight", 1, 1e-12, 2), IndexError, "dim is 2, expected -2 to 1"),
        ((layer, "weight", 1, 1e-12, -3), IndexError, "dim is -3, expected -2 to 1"),
    ]:
        with pytest.raises(error, match=f"^spectral_norm: {message.replace('.', '[.]')}"):
            spectral_norm(*arguments)
    assert type(layer) is nn.Linear
