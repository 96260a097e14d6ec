"""Spectral normalization of a whole model as a group."""

import copy
import importlib
from collections.abc import Callable

import pytest
import torch
from critics import Critic, assert_same, gradients, images, normalized, vectors, wgan_gp_step
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.nn.utils.spectral_norm import spectral_norm as hooked_spectral_norm

from fastgan.nn import spectral_norm, spectral_norm_

Taken = Callable[[], tuple[list[int], list[int]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Takes what was noted of power_iteration and spectral_normalize: how many weights each call was for."""
    module = importlib.import_module("fastgan.nn.spectral_norm")
    noted: list[list[int]] = [[], []]

    def noting(op: Callable, sizes: list[int]) -> Callable:
        return lambda weights, *args, **settings: sizes.append(len(weights)) or op(weights, *args, **settings)

    for name, sizes in zip(("power_iteration", "spectral_normalize"), noted, strict=True):
        monkeypatch.setattr(module, name, noting(getattr(module, name), sizes))

    def take() -> tuple[list[int], list[int]]:
        taken = [sizes.copy() for sizes in noted]
        for sizes in noted:
            sizes.clear()
        return tuple(taken)

    return take


def assert_same_gradients(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(gradients(a), gradients(b), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["auto", "triton"], indirect=True)
def test_training_steps_are_those_of_torch(backend: str):
    models = [normalized(how) for how in ("torch", "group", "single")[: 2 if backend == "triton" else 3]]
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
    for seed in range(1 if backend == "triton" else 2):
        for model, its in zip(models, optimizers, strict=True):
            wgan_gp_step(model, its, images(2 * seed), images(2 * seed + 1))
        for model in models[1:]:
            assert_same(models[0], model)


@pytest.mark.parametrize("other", ["torch", "single"])
def test_checkpoints_load_both_ways(other: str):
    for source, target in ((normalized("group"), normalized(other)), (normalized(other), normalized("group"))):
        source(images(0))
        target(images(1)), target(images(1))
        target.load_state_dict(source.state_dict(), strict=True)
        for model in (source, target):
            wgan_gp_step(model, torch.optim.SGD(model.parameters(), lr=0.1), images(2), images(3))
        assert_same(source, target)


def test_a_forward_is_one_call_of_each_op(calls: Taken):
    model = normalized("group")
    calls()
    model(images(0))
    assert calls() == ([4], [4])
    model.eval()(images(0))
    assert calls() == ([], [4])
    model.train().trunk.eval()
    model(images(0))
    assert calls() == ([2], [4])
    # One call for each type of weight.
    model.train().float().head.double()
    model.run_trunk = lambda trunk, x: trunk(x).double()
    model(images(0).float())
    assert calls() == ([3, 1], [3, 1])


def test_reading_never_iterates():
    model = normalized("group")
    before = vectors(model)
    first, second = model.head.weight, model.head.weight
    with torch.no_grad():
        third = model.head.weight
    torch.testing.assert_close(vectors(model), before, rtol=0, atol=0)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    with parametrize.cached():
        assert model.head.weight is model.head.weight


def test_a_layer_that_is_called_often_iterates_once_a_forward():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.again = self.layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.again(torch.tanh(self.layer(torch.tanh(self.layer(x)))))

    model, reference = Recurrent().double(), Recurrent().double()
    spectral_norm_(model)
    torch_spectral_norm(reference.layer)
    reference.load_state_dict(model.state_dict())
    x = torch.randn(3, 4, dtype=torch.float64)
    for _ in range(2):
        out = model(x)
        with parametrize.cached():
            expected = reference(x)
        torch.testing.assert_close(out, expected)
        out.sum().backward(), expected.sum().backward()
    assert_same(reference, model)
    assert_same_gradients(reference, model)


def test_layers_that_share_a_weight():
    def tied(how: str) -> nn.Module:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
        model[2].weight = model[0].weight
        torch.manual_seed(2)
        if how == "group":
            return spectral_norm_(model)
        torch_spectral_norm(model[0]), torch_spectral_norm(model[2])
        return model

    ours, theirs = tied("group"), tied("torch")
    assert ours[0].parametrizations.weight.original is ours[2].parametrizations.weight.original
    x = torch.randn(3, 4, dtype=torch.float64)
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert_same(theirs, ours)


def test_a_copy_has_a_group_of_its_own(calls: Taken):
    model = normalized("group")
    model(images(0)).sum().backward()
    twin = copy.deepcopy(model)
    state = {key: value.clone() for key, value in twin.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    calls()
    model(images(0))
    for key, value in twin.state_dict().items():
        assert torch.equal(value, state[key]), key
    expected = normalized("torch")
    expected.load_state_dict(state)
    torch.testing.assert_close(twin(images(1)), expected(images(1)))
    assert_same(expected, twin)
    assert calls() == ([4, 4], [4, 4])
    # A part of the model can be copied too: its layers then have no group.
    part = copy.deepcopy(model.trunk)
    part(torch.randn(2, 4, 6, 6, dtype=torch.float64))
    assert calls() == ([1, 1], [1, 1])


@pytest.mark.parametrize("swap", [False, True])
def test_moved_cast_loaded_and_assigned(swap: bool):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        model, reference = normalized("group"), normalized("torch")
        for each in (model, reference):
            each(images(0)).sum().backward()
            each.zero_grad()
            each.to(torch.float32)
        torch.testing.assert_close(model(images(1).float()), reference(images(1).float()))
        for each in (model, reference):
            each.double()
            each.load_state_dict({k: v.double() for k, v in reference.state_dict().items()}, assign=True)
        for seed in range(2):
            for each in (model, reference):
                each(images(seed)).sum().backward()
                with torch.no_grad():
                    for parameter in each.parameters():
                        parameter.mul_(1.5)
        assert_same(reference, model)
        assert_same_gradients(reference, model)
        model.to(memory_format=torch.channels_last)
        reference.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images(3)), reference(images(3)))
        model.half()
        assert model.head.weight.dtype == torch.float16
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def without_gradients_and_in_evaluation(model: nn.Module) -> None:
    with torch.no_grad():
        model(images(0))
    for each in (model, model.eval()):
        with torch.inference_mode():
            each(images(0))
    model.train()(images(1)).sum().backward()
    model.eval()(images(2)).sum().backward()


def frozen_as_while_the_generator_trains(model: nn.Module) -> None:
    model.requires_grad_(False)
    x = images(0).requires_grad_()
    model(x).sum().backward()
    model.requires_grad_(True)(x.grad).sum().backward()


def functional_calls(model: nn.Module) -> None:
    parameters = {name: (p.detach() * 1.5).requires_grad_() for name, p in model.named_parameters()}
    torch.func.functional_call(model, parameters, (images(0),)).sum().backward()
    for p, called in zip(model.parameters(), parameters.values(), strict=True):
        p.grad = called.grad


def a_part_that_switches_gradients_on(model: nn.Module) -> None:
    model(images(1)).sum().backward()
    found = []
    model.run_trunk = torch.enable_grad()(lambda trunk, x: found.append(trunk(x)) or found[-1])
    with torch.no_grad():
        assert not model(images(0)).requires_grad
        model(images(0))
    found[-1].sum().backward()


def a_part_that_is_called_by_itself(model: nn.Module) -> None:
    model.trunk(model.stem(images(0))).sum().backward()
    model(images(1)).sum().backward()
    model.eval().stem(images(0))


@pytest.mark.parametrize("how", ["group", "single"])
@pytest.mark.parametrize(
    "run",
    [
        a_part_that_is_called_by_itself,
        without_gradients_and_in_evaluation,
        frozen_as_while_the_generator_trains,
        functional_calls,
        a_part_that_switches_gradients_on,
    ],
)
def test_every_use_is_as_with_torchs(how: str, run: Callable):
    model, reference = normalized(how), normalized("torch")
    run(model), run(reference)
    assert_same(reference, model)
    assert_same_gradients(reference, model)


def test_a_forward_inside_the_forward(calls: Taken):
    model = normalized("group")
    calls()
    depth = []

    def inner(trunk: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not depth:
            depth.append(0)
            depth[0] = model(images(1)).sum()
        return trunk(x)

    model.run_trunk = inner
    out = model(images(0))
    assert calls() == ([4], [4])
    (out.sum() + depth[0]).backward()
    reference = normalized("torch")
    with parametrize.cached():
        (reference(images(0)).sum() + reference(images(1)).sum()).backward()
    assert_same_gradients(reference, model)
    model(images(0))
    assert calls() == ([4], [4])


class Stop(BaseException):
    """Not an Exception, as KeyboardInterrupt is not: torch runs no hooks after it."""


@pytest.mark.parametrize("error", [ValueError, Stop])
@pytest.mark.parametrize("inner", [False, True])
def test_an_error_inside_the_forward(error: type[BaseException], inner: bool, calls: Taken):
    model = normalized("group")

    def fail(trunk: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if inner and len(x) > 1:
            return model(images(1, n=1))
        raise error

    model.run_trunk = fail
    with pytest.raises(error):
        model(images(0))
    if error is ValueError:
        # What the forward held is freed at once.
        assert model.head.parametrizations.weight[0].normalized is None
    del model.run_trunk
    calls()
    reference = normalized("torch")
    reference.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    assert model.head.weight is not model.head.weight
    for each in (model, twin, reference):
        with torch.no_grad():
            each.head.parametrizations.weight.original.add_(0.5)
        each.seen = each.eval().head.weight
        each.train().stem(images(0)).sum().backward()
        each(images(0)).sum().backward()
    for each in (model, twin):
        torch.testing.assert_close(each.seen, reference.seen)
        assert_same(reference, each)
        assert_same_gradients(reference, each)
    assert calls()[0] == [1, 4, 1, 4]


def test_under_autocast():
    outs = []
    for how in ("torch", "group"):
        model = normalized(how).float()
        with torch.autocast("cpu", torch.bfloat16):
            outs.append(model(images(0).float()))
            weight = model.eval().head.weight
        assert outs[-1].dtype == torch.bfloat16
        model.train()
        outs[-1].float().sum().backward()
    # The norms are in float32, so the weight is the one without autocast.
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, model.eval().head.weight, rtol=0, atol=0)
    torch.testing.assert_close(*outs, rtol=0.05, atol=0.05)


def test_removed_and_replaced_layers_leave_the_group(calls: Taken):
    model = normalized("group")
    parametrize.remove_parametrizations(model.head, "weight")
    calls()
    model(images(0)).sum().backward()
    assert calls() == ([3], [3])
    model.stem[0] = nn.Conv2d(3, 4, 3).double()
    model(images(0))
    assert calls() == ([2], [2])
    model.stem = nn.Conv2d(3, 4, 3).double()
    model(images(0))
    assert calls() == ([2], [2])
    # A layer that takes a place in the group does not join it.
    model.trunk[0] = spectral_norm(nn.Conv2d(4, 4, 3, padding=1).double())
    calls()
    model(images(0)).sum().backward()
    assert calls() == ([1, 1], [1, 1])


def test_the_model_may_be_a_single_layer(calls: Taken):
    model = spectral_norm_(nn.Linear(3, 4).double())
    calls()
    for _ in range(2):
        model(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    assert calls() == ([1, 1], [1, 1])


TAKEN = "is normalized or parametrized already"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model: torch_spectral_norm(model.head), ValueError, f"head {TAKEN}"),
        (lambda model: spectral_norm(model.head), ValueError, f"head {TAKEN}"),
        (lambda model: hooked_spectral_norm(model.head), ValueError, f"head {TAKEN}"),
        (lambda model: spectral_norm_(model.trunk), ValueError, f"trunk.0 {TAKEN}"),
        (spectral_norm_, ValueError, f"stem.0 {TAKEN}"),
        (lambda model: setattr(model, "head", nn.LazyLinear(3)), ValueError, "head is uninitialized"),
        (
            lambda model: setattr(model, "head", nn.Linear(3, 3, dtype=torch.cfloat)),
            TypeError,
            "head is torch.complex64",
        ),
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(change: Callable, error: type[Exception], message: str):
    model = Critic()
    change(model)
    kinds = [type(each) for each in model.modules()]
    with pytest.raises(error, match=f"^spectral_norm_: the weight of {message}"):
        spectral_norm_(model)
    assert [type(each) for each in model.modules()] == kinds


def test_a_model_without_layers_to_normalize_is_refused():
    with pytest.raises(ValueError, match="Sequential has no convolution, linear layer or embedding"):
        spectral_norm_(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="model is a list, expected"):
        spectral_norm_([nn.Linear(2, 2)])


@pytest.mark.parametrize(
    ("how", "backend"),
    [
        ("group", "auto"),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (("single", "auto"), ("group", "triton"))),
    ],
    indirect=["backend"],
)
def test_compiled_as_a_whole(how: str, backend: str, fresh_compiler: None):
    model = normalized(how)
    compiled = copy.deepcopy(model)
    whole = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for each, call in ((model, model), (compiled, whole)):
        for seed in range(2):
            (call(images(seed)).mean() - call(images(seed + 5)).square().mean()).backward()
        each.zero_grad(set_to_none=False)
        call(images(8)).sum().backward()
    assert_same(model, compiled)
    assert_same_gradients(model, compiled)
    # Outside of the compiled forward nothing of it is left.
    assert_same(model, copy.deepcopy(compiled))
    torch.testing.assert_close(compiled.eval().head.weight, model.eval().head.weight)


@pytest.mark.parametrize("broken", [False, pytest.param(True, marks=pytest.mark.exhaustive)])
def test_compiled_in_parts(broken: bool, fresh_compiler: None):
    """A part of an eager model is compiled; or the compiler gives up in the middle of the model."""
    model = normalized("group")
    compiled = copy.deepcopy(model)
    if broken:
        compiled.run_trunk = torch.compiler.disable(lambda trunk, x: trunk(x))
        call = torch.compile(compiled, backend="aot_eager")
    else:
        compiled.trunk = torch.compile(compiled.trunk, fullgraph=True, backend="aot_eager")
        call = compiled
    for seed in range(2):
        model(images(seed)).square().sum().backward()
        call(images(seed)).square().sum().backward()
    torch.testing.assert_close(vectors(compiled), vectors(model), rtol=1e-10, atol=1e-10)
    assert_same_gradients(model, compiled)
