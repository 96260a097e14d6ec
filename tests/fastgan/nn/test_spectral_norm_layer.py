"""Spectral normalisation of one module, against torch's parametrisation and the cases of torch's own tests for it."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.nn.utils.spectral_norm import spectral_norm as hooked_spectral_norm

from fastgan.nn import spectral_norm, spectral_norm_
from fastgan_kernels import use_backend

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


@pytest.fixture
def backend(request: pytest.FixtureRequest):
    """Triton's interpreter is slow, so the kernels run in one case of each kind."""
    with use_backend(request.param):
        yield request.param


def layer_of(case: str) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[case][0]().double()


def images(case: str, seed: int) -> torch.Tensor:
    return torch.randn(LAYERS[case][1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm_of(module: nn.Module, name: str = "weight") -> nn.Module:
    return module.parametrizations[name][0]


def assert_same_state(a: nn.Module, b: nn.Module) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    for key, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key], value, rtol=1e-10, atol=1e-10, msg=key)


def wgan_gp_step(critic: nn.Module, optimizer: torch.optim.Optimizer, real: torch.Tensor, fake: torch.Tensor) -> None:
    """Three forwards before one backward, and a double backward."""
    between = ((real + fake) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).square().sum(), between, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    optimizer.zero_grad()
    (critic(fake).mean() - critic(real).mean() + 10 * penalty).backward()
    optimizer.step()


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
    assert_same_state(ours, theirs)
    make = torch.optim.Adam if "linear" in case else torch.optim.SGD
    optimizers = [make(layer.parameters(), lr=0.05) for layer in (ours, theirs)]
    for step in range(3):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            wgan_gp_step(layer, optimizer, images(case, 2 * step), images(case, 2 * step + 1))
        assert_same_state(ours, theirs)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["triton", "reference"], indirect=True)
@pytest.mark.parametrize(("zeroed", "whole"), [(0, False), (4, False), (4, True)])
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
@pytest.mark.parametrize("direction", ["theirs to ours", "ours to theirs"])
def test_checkpoints_load_both_ways_and_the_next_step_agrees(case: str, direction: str):
    trained, fresh = layer_of(case), LAYERS[case][0]().double()
    wraps = (
        (torch_spectral_norm, spectral_norm) if direction == "theirs to ours" else (spectral_norm, torch_spectral_norm)
    )
    wraps[0](trained), wraps[1](fresh)
    trained(images(case, 0))
    fresh.load_state_dict(trained.state_dict(), strict=True)
    for layer in (trained, fresh):
        wgan_gp_step(layer, torch.optim.SGD(layer.parameters(), lr=0.1), images(case, 1), images(case, 2))
    assert_same_state(trained, fresh)


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
    assert (
        norm_of(ours)._u.shape
        == ours.parametrizations.weight.original.transpose(0, 1 if dim is None else dim)[:, 0, 0, 0].shape
    )
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    assert_same_state(ours.double(), theirs.double())


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
    assert_same_state(ours, theirs)
    assert "n_power_iterations=3" in repr(ours)
    assert "eps=0.1" in repr(ours)


def test_the_largest_singular_value_is_one():
    """The Frobenius norm is not: a matrix has more singular values than the largest."""
    layer = spectral_norm(nn.Conv2d(3, 8, 3).double())
    for _ in range(200):
        layer(torch.zeros(1, 3, 3, 3, dtype=torch.float64))
    values = torch.linalg.svdvals(layer.weight.flatten(1))
    torch.testing.assert_close(values[0], torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0)
    assert layer.weight.norm() > 1.5


def test_the_value_of_a_diagonal_matrix():
    layer = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, 0.0], [0.0, -0.1]]))
    spectral_norm(layer)
    torch.testing.assert_close(layer.weight, torch.tensor([[1.0, 0.0], [0.0, -1 / 3]], dtype=torch.float64))


def test_a_forward_is_one_iteration_and_a_division():
    layer = spectral_norm(nn.Linear(5, 7).double())
    norm, weight = norm_of(layer), layer.parametrizations.weight.original.detach()
    u = nn.functional.normalize(weight @ norm._v, dim=0)
    v = nn.functional.normalize(weight.T @ u, dim=0)
    x = torch.randn(3, 5, dtype=torch.float64)
    expected = nn.functional.linear(x, weight / (u @ weight @ v), layer.bias)
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close((norm._u, norm._v), (u, v))


def test_it_is_a_parametrization():
    layer = spectral_norm(nn.Linear(5, 7).double())
    norms = layer.parametrizations.weight
    assert isinstance(layer, nn.Linear)
    assert parametrize.is_parametrized(layer, "weight")
    assert set(layer.state_dict()) == {
        "bias",
        "parametrizations.weight.original",
        "parametrizations.weight.0._u",
        "parametrizations.weight.0._v",
    }
    assert set(dict(layer.named_parameters())) == {"bias", "parametrizations.weight.original"}
    assert norms[0]._u.shape == (7,)
    assert norms[0]._v.shape == (5,)
    assert layer.weight.shape == norms.original.shape
    assert layer.weight.stride() == norms.original.stride()
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(layer)


def test_removal_leaves_the_normalised_weight():
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


def test_several_on_one_module_and_one_weight():
    layer = nn.Linear(5, 7).double()
    for name in ("weight", "weight", "bias"):
        spectral_norm(layer, name)
    torch.testing.assert_close(layer.bias.norm(), torch.ones((), dtype=torch.float64))
    layer(torch.randn(2, 5, dtype=torch.float64)).sum().backward()
    parametrize.remove_parametrizations(layer, "bias")
    assert "bias" in layer._parameters
    assert "weight" not in layer._parameters
    parametrize.remove_parametrizations(layer, "weight")
    assert not parametrize.is_parametrized(layer)
    assert "weight" in layer._parameters


@pytest.mark.parametrize("requires_grad", [True, False])
def test_training_and_evaluation(requires_grad: bool):
    layer = nn.Linear(3, 4).double()
    layer.weight.requires_grad_(requires_grad)
    spectral_norm(layer)
    norm = norm_of(layer)
    x = torch.randn(2, 3, dtype=torch.float64)
    with torch.no_grad():
        layer.parametrizations.weight.original.add_(torch.randn(4, 3, dtype=torch.float64))
    start = norm._u.clone(), norm._v.clone()
    last = layer(x)
    assert not torch.equal(norm._u, start[0])
    assert not torch.equal(norm._v, start[1])
    if requires_grad:
        torch.autograd.grad(last.sum(), layer.parametrizations.weight.original)
    saved = norm._u.clone(), norm._v.clone()
    layer.eval()
    torch.testing.assert_close(layer(x), last)
    torch.testing.assert_close(layer(x), last)
    assert torch.equal(norm._u, saved[0])
    assert torch.equal(norm._v, saved[1])

    def mixed(x: torch.Tensor) -> torch.Tensor:
        norm._u.copy_(saved[0]), norm._v.copy_(saved[1])
        return layer.train()(x) + layer.eval()(x) + layer.train()(x) + layer.eval()(x)

    mixed(x).sum().backward()
    assert torch.autograd.gradcheck(mixed, (x.clone().requires_grad_(),))
    layer.eval()
    if requires_grad:
        assert torch.autograd.gradcheck(lambda _: layer(x), (layer.parametrizations.weight.original,))


@pytest.mark.parametrize("forwards", [0, 3])
def test_a_state_loads_into_a_layer_that_was_wrapped_again(forwards: int):
    layer = spectral_norm(nn.Linear(3, 5).double())
    x = torch.randn(2, 3, dtype=torch.float64)
    for _ in range(forwards):
        layer(x)
    state = copy.deepcopy(layer.state_dict())
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "nonsense"'):
        layer.load_state_dict({**state, "nonsense": 1}, strict=True)
    partial = copy.deepcopy(state)
    for key in state:
        del partial[key]
        layer.load_state_dict(partial, strict=False)

    def outputs() -> list[torch.Tensor]:
        return [layer.train(mode)(x).detach() for mode in (False, True, True, False)]

    found = []
    for _ in range(2):
        spectral_norm(parametrize.remove_parametrizations(layer, "weight"))
        layer.load_state_dict(state)
        found.append(outputs())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_cached_reads_iterate_once():
    layer = spectral_norm(nn.Linear(3, 5).double())
    theirs = torch_spectral_norm(nn.Linear(3, 5).double())
    theirs.load_state_dict(layer.state_dict())
    for each in (layer, theirs):
        with parametrize.cached():
            assert each.weight is each.weight
    assert_same_state(layer, theirs)


def test_copies_are_independent():
    layer = spectral_norm(nn.Linear(3, 5).double())
    layer(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    twin = copy.deepcopy(layer)
    before = twin.state_dict()["parametrizations.weight.0._u"].clone()
    with torch.no_grad():
        layer.parametrizations.weight.original.normal_()
    layer(torch.randn(2, 3, dtype=torch.float64))
    assert torch.equal(norm_of(twin)._u, before)
    assert not torch.equal(norm_of(layer)._u, before)


def test_an_assigned_weight_is_the_original():
    layer = spectral_norm(nn.Linear(3, 3).double())
    layer.weight = 5 * torch.eye(3, dtype=torch.float64)
    assert torch.equal(layer.parametrizations.weight.original, 5 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(layer.weight, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types(dtype: torch.dtype):
    layer = spectral_norm(nn.Linear(6, 5)).to(dtype)
    wide = copy.deepcopy(layer).double()
    assert layer.weight.dtype == norm_of(layer)._u.dtype == dtype
    # u, v and the weight are each rounded to the type once.
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(layer.weight.double(), wide.weight, rtol=tolerance, atol=tolerance)
    layer.weight.sum().backward()
    assert layer.parametrizations.weight.original.grad.dtype == dtype


def test_bad_arguments_are_told_in_a_sentence():
    layer = nn.Linear(3, 4)
    for arguments, error, message in [
        ((torch.zeros(3),), TypeError, "module is a Tensor, expected a torch.nn.Module"),
        ((layer, "wait"), ValueError, "Linear has no parameter or buffer 'wait'"),
        ((nn.Linear(3, 4, bias=False), "bias"), ValueError, "Linear has no parameter or buffer 'bias'"),
        ((nn.LazyLinear(4),), ValueError, "weight is uninitialised"),
        (
            (nn.Linear(3, 4, dtype=torch.complex64),),
            TypeError,
            "weight is torch.complex64, expected a real floating-point",
        ),
        ((layer, "weight", 0), ValueError, "n_power_iterations is 0, expected at least 1"),
        ((layer, "weight", 1, 1e-12, 2), IndexError, "dim is 2, expected -2 to 1"),
        ((layer, "weight", 1, 1e-12, -3), IndexError, "dim is -3, expected -2 to 1"),
    ]:
        with pytest.raises(error, match=f"^spectral_norm: {message.replace('.', '[.]')}"):
            spectral_norm(*arguments)
    assert type(layer) is nn.Linear
    for arguments in [("wait",), ("weight", 0), ("weight", 1, 1e-12, 2)]:
        errors = []
        for wrap in (spectral_norm, torch_spectral_norm):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                wrap(layer, *arguments)
            errors.append(caught.type)
        assert errors[0] is errors[1]
