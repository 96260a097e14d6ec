"""Spectral normalisation of a whole model as a group."""

import copy
import importlib
from collections.abc import Callable

import pytest
import torch
from critics import Critic, gradients, images, normalised, vectors
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm as torch_spectral_norm
from torch.nn.utils.spectral_norm import spectral_norm as hooked_spectral_norm

from fastgan.nn import spectral_norm, spectral_norm_
from fastgan.regularizers import compile_step, r1
from fastgan_kernels import use_backend

module = importlib.import_module("fastgan.nn.spectral_norm")


@pytest.fixture
def backend(request: pytest.FixtureRequest):
    """Triton's interpreter is slow, so the kernels run in one case of each kind."""
    with use_backend(request.param):
        yield request.param


class Calls:
    """How many layers each call of the two ops was for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.iterations: list[int] = []
        self.normalisations: list[int] = []
        for name, calls in (("power_iteration", self.iterations), ("spectral_normalize", self.normalisations)):
            monkeypatch.setattr(module, name, self.counted(getattr(module, name), calls))

    @staticmethod
    def counted(op: Callable, calls: list[int]) -> Callable:
        def call(weights, *args, **kwargs):
            calls.append(len(weights))
            return op(weights, *args, **kwargs)

        return call

    def take(self) -> tuple[list[int], list[int]]:
        found = list(self.iterations), list(self.normalisations)
        self.iterations.clear(), self.normalisations.clear()
        return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def assert_same(a: nn.Module, b: nn.Module, tolerance: float = 1e-10) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    for key, value in a.state_dict().items():
        torch.testing.assert_close(b.state_dict()[key], value, rtol=tolerance, atol=tolerance, msg=key)


def assert_same_gradients(a: nn.Module, b: nn.Module) -> None:
    torch.testing.assert_close(gradients(a), gradients(b), rtol=1e-10, atol=1e-10)


def wgan_gp_step(critic: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    real, fake = images(2 * seed), images(2 * seed + 1)
    between = ((real + fake) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    optimizer.zero_grad()
    (critic(fake).mean() - critic(real).mean() + 10 * penalty).backward()
    optimizer.step()


@pytest.mark.parametrize("backend", ["auto", "triton"], indirect=True)
def test_training_steps_are_those_of_torch(backend: str):
    models = [normalised(how) for how in ("torch", "group", "single")[: 2 if backend == "triton" else 3]]
    optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
    for seed in range(1 if backend == "triton" else 2):
        for model, its in zip(models, optimizers, strict=True):
            wgan_gp_step(model, its, seed)
        for model in models[1:]:
            assert_same(models[0], model)


@pytest.mark.parametrize("other", ["torch", "single"])
def test_checkpoints_load_both_ways(other: str):
    for source, target in ((normalised("group"), normalised(other)), (normalised(other), normalised("group"))):
        source(images(0))
        target(images(1)), target(images(1))
        target.load_state_dict(source.state_dict(), strict=True)
        for model in (source, target):
            wgan_gp_step(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
        assert_same(source, target)


def test_a_forward_is_one_call_of_each_op(calls: Calls):
    model = normalised("group")
    calls.take()
    model(images(0))
    assert calls.take() == ([4], [4])
    model.eval()(images(0))
    assert calls.take() == ([], [4])
    model.train().trunk.eval()
    model(images(0))
    assert calls.take() == ([2], [4])
    # One call for each type of weight.
    model.train().float().head.double()
    model.run_trunk = lambda trunk, x: trunk(x).double()
    model(images(0).float())
    assert calls.take() == ([3, 1], [3, 1])


def test_reading_never_iterates():
    model = normalised("group")
    before = vectors(model)
    first, second = model.head.weight, model.head.weight
    with torch.no_grad():
        third = model.head.weight
    torch.testing.assert_close(vectors(model), before, rtol=0, atol=0)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    with parametrize.cached():
        assert model.head.weight is model.head.weight


def test_a_part_that_is_called_alone_iterates_itself():
    model = normalised("group")
    reference = normalised("torch")
    x = model.stem(images(0))
    torch.testing.assert_close(x, reference.stem(images(0)))
    model.trunk(x).sum().backward()
    reference.trunk(x.detach()).sum().backward()
    assert_same(reference, model)
    torch.testing.assert_close(
        model.trunk[0].parametrizations.weight.original.grad, reference.trunk[0].parametrizations.weight.original.grad
    )
    model.eval().stem(images(0))
    assert_same(reference, model)


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


def test_a_copy_has_a_group_of_its_own(calls: Calls):
    model = normalised("group")
    model(images(0)).sum().backward()
    twin = copy.deepcopy(model)
    state = {key: value.clone() for key, value in twin.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    calls.take()
    model(images(0))
    for key, value in twin.state_dict().items():
        assert torch.equal(value, state[key]), key
    expected = normalised("torch")
    expected.load_state_dict(state)
    torch.testing.assert_close(twin(images(1)), expected(images(1)))
    assert_same(expected, twin)
    assert calls.take() == ([4, 4], [4, 4])
    # A part of the model alone is a copy too, of layers without a group.
    part = copy.deepcopy(model.trunk)
    part(torch.randn(2, 4, 6, 6, dtype=torch.float64))
    assert calls.take() == ([1, 1], [1, 1])


@pytest.mark.parametrize("swap", [False, True])
def test_moved_cast_loaded_and_assigned(swap: bool):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        model, reference = normalised("group"), normalised("torch")
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


@pytest.mark.parametrize("how", ["group", "single"])
def test_without_gradients_and_in_evaluation(how: str):
    model, reference = normalised(how), normalised("torch")
    for each in (model, reference):
        with torch.no_grad():
            each(images(0))
        with torch.inference_mode():
            each(images(0))
        each.eval()
        with torch.inference_mode():
            each(images(0))
        each.train()(images(1)).sum().backward()
        each.eval()(images(2)).sum().backward()
    assert_same(reference, model)
    assert_same_gradients(reference, model)


def test_a_part_that_switches_gradients_on():
    model, reference = normalised("group"), normalised("torch")
    for each in (model, reference):
        each.run_trunk = torch.enable_grad()(lambda trunk, x: trunk(x))
        with torch.no_grad():
            assert not each(images(0)).requires_grad
        trunk = each.trunk
        found = []
        each.run_trunk = torch.enable_grad()(lambda trunk, x, found=found: found.append(trunk(x)) or found[0])
        with torch.no_grad():
            each(images(0))
        found[0].sum().backward()
    torch.testing.assert_close(
        model.trunk[0].parametrizations.weight.original.grad, reference.trunk[0].parametrizations.weight.original.grad
    )
    assert trunk is reference.trunk


def test_frozen_weights():
    """As a critic is while its generator trains."""
    model, reference = normalised("group"), normalised("torch")
    for each in (model, reference):
        each.requires_grad_(False)
        x = images(0).requires_grad_()
        each(x).sum().backward()
        each.seen = x.grad
        each.requires_grad_(True)(images(1)).sum().backward()
    torch.testing.assert_close(model.seen, reference.seen)
    assert_same(reference, model)
    assert_same_gradients(reference, model)


def test_a_forward_inside_the_forward(calls: Calls):
    model = normalised("group")
    calls.take()
    depth = []

    def inner(trunk: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not depth:
            depth.append(0)
            depth[0] = model(images(1)).sum()
        return trunk(x)

    model.run_trunk = inner
    out = model(images(0))
    assert calls.take() == ([4], [4])
    (out.sum() + depth[0]).backward()
    reference = normalised("torch")
    with parametrize.cached():
        (reference(images(0)).sum() + reference(images(1)).sum()).backward()
    assert_same_gradients(reference, model)
    model(images(0))
    assert calls.take() == ([4], [4])


class Stop(BaseException):
    """Not an Exception, as KeyboardInterrupt is not: torch runs no hooks after it."""


@pytest.mark.parametrize("error", [ValueError, Stop])
@pytest.mark.parametrize("inner", [False, True])
def test_an_error_inside_the_forward(error: type[BaseException], inner: bool, calls: Calls):
    model = normalised("group")

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
    calls.take()
    reference = normalised("torch")
    reference.load_state_dict(model.state_dict())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for each in (model, reference, twin):
            each.head.parametrizations.weight.original.add_(0.5)
    for each in (model, twin):
        assert each.head.weight is not each.head.weight
        torch.testing.assert_close(each.eval().head.weight, reference.eval().head.weight)
        each.train()
    reference.train()
    for each in (model, twin, reference):
        each.stem(images(0)).sum().backward()
        each(images(0)).sum().backward()
    assert_same(reference, model)
    assert_same(reference, twin)
    assert_same_gradients(reference, model)
    assert calls.take()[0] == [1, 4, 1, 4]


def test_under_autocast():
    model = normalised("group").float()
    reference = normalised("torch").float()
    for each in (model, reference):
        with torch.autocast("cpu", torch.bfloat16):
            out = each(images(0).float())
            weight = each.eval().head.weight
        assert out.dtype == torch.bfloat16
        each.train()
        out.float().sum().backward()
        each.seen = out, weight
    assert model.seen[1].dtype == torch.float32
    model.eval()
    # The norms are in float32, so the weight is the one without autocast.
    torch.testing.assert_close(model.seen[1], model.head.weight, rtol=0, atol=0)
    torch.testing.assert_close(model.seen[0], reference.seen[0], rtol=0.05, atol=0.05)


def test_functional_calls():
    model, reference = normalised("group"), normalised("torch")
    for each in (model, reference):
        parameters = {name: (p.detach() * 1.5).requires_grad_() for name, p in each.named_parameters()}
        out = torch.func.functional_call(each, parameters, (images(0),))
        each.seen = torch.autograd.grad(out.sum(), tuple(parameters.values()))
    torch.testing.assert_close(model.seen, reference.seen)
    assert_same(reference, model)


def test_removed_and_replaced_layers_leave_the_group(calls: Calls):
    model = normalised("group")
    parametrize.remove_parametrizations(model.head, "weight")
    calls.take()
    model(images(0)).sum().backward()
    assert calls.take() == ([3], [3])
    model.stem[0] = nn.Conv2d(3, 4, 3).double()
    model(images(0))
    assert calls.take() == ([2], [2])
    model.stem = nn.Conv2d(3, 4, 3).double()
    model(images(0))
    assert calls.take() == ([2], [2])
    # A layer that takes a place in the group does not join it.
    model.trunk[0] = spectral_norm(nn.Conv2d(4, 4, 3, padding=1).double())
    calls.take()
    model(images(0)).sum().backward()
    assert calls.take() == ([1, 1], [1, 1])


def test_a_layer_alone_can_be_the_model(calls: Calls):
    model = spectral_norm_(nn.Linear(3, 4).double())
    calls.take()
    for _ in range(2):
        model(torch.randn(2, 3, dtype=torch.float64)).sum().backward()
    assert calls.take() == ([1, 1], [1, 1])


def test_what_is_refused_leaves_the_model_as_it_was():
    def torchs(model: nn.Module) -> None:
        torch_spectral_norm(model.head)

    def ours(model: nn.Module) -> None:
        spectral_norm(model.head)

    def hooked(model: nn.Module) -> None:
        hooked_spectral_norm(model.head)

    def again(model: nn.Module) -> None:
        spectral_norm_(model.trunk)

    def lazy(model: nn.Module) -> None:
        model.head = nn.LazyLinear(3)

    def complex_(model: nn.Module) -> None:
        model.head = nn.Linear(3, 3, dtype=torch.complex64)

    for change, error, message in [
        (torchs, ValueError, "the weight of head is normalized or parametrized already"),
        (ours, ValueError, "the weight of head is normalized or parametrized already"),
        (hooked, ValueError, "the weight of head is normalized or parametrized already"),
        (again, ValueError, "the weight of trunk.0 is normalized or parametrized already"),
        (spectral_norm_, ValueError, "the weight of stem.0 is normalized or parametrized already"),
        (lazy, ValueError, "the weight of head is uninitialized"),
        (complex_, TypeError, "the weight of head is torch.complex64"),
    ]:
        model = Critic()
        change(model)
        kinds = [type(each) for each in model.modules()]
        with pytest.raises(error, match=f"^spectral_norm_: {message}"):
            spectral_norm_(model)
        assert [type(each) for each in model.modules()] == kinds
    with pytest.raises(ValueError, match="Sequential has no convolution, linear layer or embedding"):
        spectral_norm_(nn.Sequential(nn.ReLU()))
    with pytest.raises(TypeError, match="model is a list, expected"):
        spectral_norm_([nn.Linear(2, 2)])


@pytest.fixture
def fresh_compiler():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("how", "backend"),
    [
        ("group", "auto"),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (("single", "auto"), ("group", "triton"))),
    ],
    indirect=["backend"],
)
def test_compiled_as_a_whole(how: str, backend: str, fresh_compiler: None):
    model = normalised(how)
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
    model = normalised("group")
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


@pytest.mark.exhaustive  # test_orders.py shows it of the kernels
@pytest.mark.parametrize("how", ["group", "single"])
def test_a_penalty_in_a_compiled_step(how: str, fresh_compiler: None):
    def step(model: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss = model(fake).mean() - model(real).square().mean() + r1(model, real)
        return torch.autograd.grad(loss, tuple(model.parameters()))

    model = normalised(how)
    compiled, reference = copy.deepcopy(model), normalised("torch")
    found = compile_step(step, backend="aot_eager")(compiled, images(0), images(1))
    torch.testing.assert_close(found, step(reference, images(0), images(1)), rtol=1e-10, atol=1e-10)
    assert_same(reference, compiled)


def _train_on_a_rank(rank: int, address: str, file: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = DistributedDataParallel(normalised("group"), broadcast_buffers=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(3):
        optimizer.zero_grad()
        (model(images(2 * seed + 10 * rank)).square().mean() - model(images(2 * seed + 1)).mean()).backward()
        optimizer.step()
    torch.save(model.module.state_dict(), f"{file}{rank}")
    torch.distributed.destroy_process_group()


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated")
def test_two_processes_stay_equal_without_broadcasting_buffers(tmp_path):
    torch.multiprocessing.spawn(_train_on_a_rank, (f"file://{tmp_path}/address", str(tmp_path / "rank")), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}") for rank in range(2))
    start = normalised("group").state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(first["stem.0.parametrizations.weight.0._u"], start["stem.0.parametrizations.weight.0._u"])
