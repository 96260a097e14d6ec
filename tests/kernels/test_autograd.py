"""What DifferentiableOp does for every op; its two routes are tested through the ops."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastgan_kernels import autograd, bias_act, use_backend
from fastgan_kernels.autograd import on_the_device_of_its_tensors


@pytest.mark.parametrize(("current", "entered"), [(1, []), (0, [torch.device("cuda:1")])])
def test_a_launch_runs_on_the_gpu_of_its_tensors(monkeypatch: pytest.MonkeyPatch, current: int, entered: list):
    seen = []

    @contextmanager
    def device(d: torch.device):
        seen.append(d)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
    monkeypatch.setattr(torch.cuda, "device", device)
    with FakeTensorMode():
        x = torch.empty(2, device="cuda:1")
    launch = on_the_device_of_its_tensors(lambda *args: args, operands=2)
    assert launch(None, x, 3) == (None, x, 3)
    assert seen == entered


def test_operands_come_first_in_every_schema():
    """The device and the memory of later arguments are not looked at."""
    schemas = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("fastgan::")]
    assert len(schemas) > 20
    for schema in schemas:
        of_tensors = ["Tensor" in str(argument.type) for argument in schema.arguments]
        assert of_tensors == sorted(of_tensors, reverse=True), schema.name


@pytest.mark.parametrize("recorded", [True, False])
def test_a_tensor_that_has_outlived_a_transform_is_read(recorded: bool):
    """torch.func wraps the tensors of a transform; a wrapper that leaves it has no memory of its own."""
    kept = []
    x = torch.randn(2, 3, 4)
    torch.func.grad(lambda t: kept.append(t) or t.sum())(x)
    bias = torch.randn(3, requires_grad=True)
    with use_backend("triton"), torch.set_grad_enabled(recorded):
        assert torch.equal(bias_act(kept[0], bias), bias_act(x, bias))


class Stop(torch.autograd.Function):
    """Passes no gradient: what comes before it is given None."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, g: torch.Tensor) -> None:
        return None


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_absent_gradient_stays_absent(backend: str, compiled: bool):
    def f(x: torch.Tensor) -> torch.Tensor:
        return (Stop.apply(bias_act(x)) + x).sum()

    x = torch.ones(2, 3, requires_grad=True)
    with use_backend(backend):
        (gradient,) = torch.autograd.grad((torch.compile(f, backend="aot_eager") if compiled else f)(x), x)
    assert torch.equal(gradient, torch.ones(2, 3))


def test_graphs_that_another_version_compiled_are_not_taken_from_the_cache(tmp_path: Path):
    """Its operators may have had other names, and their derivatives other formulas."""
    package = shutil.copytree(Path(autograd.__file__).parent, tmp_path / "fastgan_kernels")
    assert autograd.source_digest(package) in torch.compiler.config.cache_key_tag
    with (package / "ops" / "bias_act.py").open("a") as file:
        file.write("# changed\n")
    assert autograd.source_digest(package) not in torch.compiler.config.cache_key_tag
