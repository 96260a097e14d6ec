"""Checkpoints repeat a forward with the u and v of that forward, whatever moved them since."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from critics import gradients, images, normalized, vectors
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastgan.nn import recomputation, spectral_norm, spectral_norm_

HOW = pytest.mark.parametrize("how", ["group", "single"])
MODES = pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])


def step(model: nn.Module, call=None, backward=torch.Tensor.backward) -> list[torch.Tensor]:
    """Two forwards before a backward, then one of each, with a parameter update between."""
    call = model if call is None else call
    real, fake = images(0).requires_grad_(), images(1).requires_grad_()
    backward(call(fake).mean() - call(real).square().mean())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    backward(call(real).square().mean())
    return gradients(model) + vectors(model)


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@HOW
@MODES
@pytest.mark.parametrize("hooks", [nullcontext, torch.autograd.graph.save_on_cpu])
def test_a_checkpoint_inside_and_one_around_the_forward(how: str, reentrant: bool, hooks: Callable):
    model = normalized(how)
    expected = step(copy.deepcopy(model))
    inside = copy.deepcopy(model)
    inside.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=reentrant)
    with hooks():
        assert_equal(step(inside), expected)
        assert_equal(step(model, lambda x: checkpoint(model, x, use_reentrant=reentrant)), expected)


@HOW
@MODES
def test_a_checkpoint_around_two_forwards(how: str, reentrant: bool):
    model = normalized(how)
    twin = copy.deepcopy(model)

    def loss(model: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return model(fake).mean() - 2 * model(real).mean()

    real, fake = images(0).requires_grad_(), images(1).requires_grad_()
    for _ in range(2):
        loss(twin, real, fake).backward()
        checkpoint(loss, model, real, fake, use_reentrant=reentrant).backward()
        assert_equal(gradients(model) + vectors(model), gradients(twin) + vectors(twin))


@HOW
@MODES
def test_a_layer_that_is_called_twice(how: str, reentrant: bool):
    """In a checkpoint, once each in two, and by itself outside of the root's forward."""

    class Twice(nn.Module):
        run = staticmethod(lambda f, x: f(x))

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.run(lambda x: torch.tanh(self.layer(torch.tanh(self.layer(x)))), x)
            return self.head(self.run(self.layer, x))

    torch.manual_seed(5)
    model = Twice().double()
    model = spectral_norm_(model) if how == "group" else model
    if how == "single":
        spectral_norm(model.layer)
    twin = copy.deepcopy(model)
    model.run = lambda f, x: checkpoint(f, x, use_reentrant=reentrant)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    for each in (twin, model):
        separate = each.run(lambda x, each=each: each.layer(torch.tanh(each.layer(x))), x)
        (each(x).mean() + each(2 * x).square().mean() + separate.square().mean()).backward()
    assert_equal(gradients(model) + vectors(model), gradients(twin) + vectors(twin))


@HOW
@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("inner", [False, True])
def test_nested_checkpoints(how: str, inner: bool, outer: bool):
    model = normalized(how)
    expected = step(copy.deepcopy(model))
    model.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=inner)
    assert_equal(step(model, lambda x: checkpoint(model, x, use_reentrant=outer)), expected)


@MODES
def test_a_backward_in_another_thread(reentrant: bool):
    """As a GPU's is."""
    model = normalized("group")
    expected = step(copy.deepcopy(model))

    def backward(loss: torch.Tensor) -> None:
        with ThreadPoolExecutor(1) as other:
            other.submit(loss.backward).result()

    model.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=reentrant)
    model.trunk.forward = lambda x: checkpoint(nn.Sequential.forward, model.trunk, x, use_reentrant=reentrant)
    assert_equal(step(model, backward=backward), expected)


@HOW
@MODES
def test_a_root_and_a_part_of_it_in_one_checkpoint(how: str, reentrant: bool):
    """The part that is called by itself moves u and v once more."""
    model = normalized(how)
    twin = copy.deepcopy(model)
    x = images(0).requires_grad_()
    for each in (twin, model):
        run = lambda x, each=each: each(x).sum() + each.stem(x).square().sum()  # noqa: E731
        loss = run(x) if each is twin else checkpoint(run, x, use_reentrant=reentrant)
        (loss + each(images(1)).sum()).backward()
    assert_equal(gradients(model) + vectors(model), gradients(twin) + vectors(twin))


def test_a_checkpoint_of_an_unknown_torch_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recomputation, "GeneratorType", int)
    with pytest.raises(RuntimeError, match="are not known; expected use_reentrant=True"):
        checkpoint(normalized("group"), images(0), use_reentrant=False)


def test_nothing_is_kept_without_a_checkpoint():
    for how in ("group", "single"):
        model = normalized(how)
        step(model)
        with torch.inference_mode():
            model(images(0))
        assert all(len(module.past) == 0 for module in model.modules() if hasattr(module, "past"))


def double_backward(model: nn.Module) -> None:
    """torch allows it for the non-reentrant form."""
    x = images(0).requires_grad_()
    on_real, on_fake = model(x), model(images(1))
    (gradient,) = torch.autograd.grad(on_real.sum(), x, create_graph=True)
    ((gradient.flatten(1).norm(dim=1) - 1).square().mean() + on_fake.mean()).backward()


def kept_graph(model: nn.Module) -> None:
    y = model(images(0))
    model(images(1))
    y.sum().backward(retain_graph=True)
    y.square().sum().backward()


def evaluation_mode(model: nn.Module) -> None:
    evaluated = model.eval()(images(0).requires_grad_())
    trained = model.train()(images(1).requires_grad_())
    (evaluated.mean() + trained.square().mean()).backward()


@HOW
@pytest.mark.parametrize("run", [double_backward, kept_graph, evaluation_mode])
def test_a_forward_is_repeated_with_its_own_vectors(how: str, run: Callable):
    model = normalized(how)
    twin = copy.deepcopy(model)
    model.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=False)
    for each in (model, twin):
        run(each)
    assert_equal(gradients(model) + vectors(model), gradients(twin) + vectors(twin))


@pytest.mark.exhaustive
def test_a_checkpoint_in_a_compiled_model(fresh_compiler: None):
    model = normalized("group")
    expected = step(copy.deepcopy(model))
    model.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=False)
    assert_equal(step(model, torch.compile(model, backend="aot_eager")), expected)


@MODES
def test_a_checkpoint_of_a_compiled_part_is_refused(reentrant: bool, fresh_compiler: None):
    """What is compiled cannot know which forward it repeats."""
    model = normalized("group")
    model.trunk = torch.compile(model.trunk, backend="aot_eager")
    model.run_trunk = lambda trunk, x: checkpoint(trunk, x, use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match="compile the model as a whole"):
        step(model)
