"""accelerate on torch's two spectral norms: the same weights, u and v, forward after forward."""

import copy
import importlib
import pickle

import plain_models
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, remove_spectral_norm
from torch.nn.utils import spectral_norm as hook_form

import fastgan
from fastgan.acceleration import spectral
from fastgan_kernels import use_backend

FORMS = [hook_form, parametrizations.spectral_norm]


def build(form, make=plain_models.SNDiscriminator):
    """The model in float64 and an untouched copy of it."""
    torch.manual_seed(0)
    model = make(form).double()
    return model, copy.deepcopy(model)


def images(seed=1, n=3):
    return torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def derivatives(model, *inputs):
    """Outputs, gradients and the parameter gradients of a WGAN-GP penalty, all forwards before the one backward."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    outputs = [model(x) for x in inputs]
    leaves = [*inputs, *model.parameters()]
    loss = sum(y.square().sum() for y in outputs)
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
    penalty = sum((g.flatten(1).norm(dim=1) - 1).square().mean() for g in first[: len(inputs)])
    second = torch.autograd.grad(penalty, leaves, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (*outputs, *first, *second)]


@pytest.fixture
def sizes(monkeypatch):
    """The number of weights in each call of power_iteration."""
    module = importlib.import_module("fastgan.nn.spectral_norm")
    seen, original = [], module.power_iteration

    def noting(weights, *rest, **named):
        seen.append(len(weights))
        return original(weights, *rest, **named)

    monkeypatch.setattr(module, "power_iteration", noting)
    return seen


def assert_steps_are_torchs(model, plain, *inputs):
    assert_same(derivatives(model, *inputs), derivatives(plain, *inputs))
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("form", FORMS)
def test_report(form):
    model, _ = build(form)
    report = fastgan.accelerate(model, check=True, example_inputs=(images(),))
    name = "torch.nn.utils.spectral_norm" if form is hook_form else "parametrizations.spectral_norm"
    ours = "power_iteration, spectral_normalize"
    assert {(s.path, s.what, s.by) for s in report.swapped} == {
        ("(model)", "4 spectral norms", "one group"),
        *((path, f"Conv2d, {name}", ours) for path in ("features.0", "features.2", "conv")),
        ("fc", f"Linear, {name}", ours),
        ("features.0", "Conv2d + LeakyReLU `features.1`", "bias_act(lrelu, 0.1)"),
        ("features.2", "Conv2d + LeakyReLU `features.3`", "bias_act(lrelu, 0.1)"),
        ("conv", "Conv2d + ReLU `relu`", "bias_act(relu)"),
    }
    assert not report.left
    assert "0 swaps undone" in report.check
    assert not fastgan.accelerate(model).swapped


@pytest.mark.parametrize("form", FORMS)
def test_outputs_gradients_u_and_v_are_torchs_in_every_forward(form, sizes):
    model, plain = build(form)
    parameters = list(model.parameters())
    fastgan.accelerate(model)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    for seed in range(2):
        assert_steps_are_torchs(model, plain, images(seed), images(9))
    assert sizes == [4] * 4
    model.eval()
    plain.eval()
    assert_steps_are_torchs(model, plain, images())
    assert sizes == [4] * 4


@pytest.mark.parametrize("form", FORMS)
def test_a_part_called_by_itself_moves_its_own_u_and_v(form, sizes):
    model, plain = build(form)
    fastgan.accelerate(model)
    for m in (model, plain):
        m.features(images())
        m.conv.eval()
    assert sizes == [1, 1]
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))
    for m in (model, plain):
        m(images())
    assert sizes == [1, 1, 3]
    assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


def test_through_the_kernels():
    model, plain = build(parametrizations.spectral_norm)
    with use_backend("triton"):
        fastgan.accelerate(model)
        assert_steps_are_torchs(model, plain, images())


@pytest.mark.parametrize("form", FORMS)
def test_state_dicts_and_copies_hold_what_torchs_do(form):
    model, plain = build(form)
    fastgan.accelerate(model)
    with torch.no_grad():
        for m in (model, plain):
            m(images())
    assert list(model.state_dict()) == list(plain.state_dict())
    loaded = build(form)[0]
    fastgan.accelerate(loaded)
    loaded.load_state_dict(plain.state_dict())
    into_plain = build(form)[1]
    into_plain.load_state_dict(model.state_dict())
    twins = [loaded, into_plain, copy.deepcopy(model)]
    if form is hook_form:
        twins.append(pickle.loads(pickle.dumps(model)))
        assert not any("_u" in vars(m) for twin in twins[2:] for m in twin.modules())
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    expected = derivatives(plain, images(2))
    for twin in twins:
        assert_same(derivatives(twin, images(2)), expected)
        assert_same(twin.state_dict(), plain.state_dict())


class Driven(plain_models.SNDiscriminator):
    def head(self, h):
        return self.fc(h.sum(dim=(2, 3))).squeeze(1)


class Twice(Driven):
    def forward(self, x):
        return self.head(self.conv(self.conv(self.features(x))))


class Sometimes(Driven):
    def forward(self, x, deep=False):
        h = self.features(x)
        return self.head(self.conv(h) if deep else h)


class Untraceable(Driven):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("make", "group"),
    [
        (Twice, ("(model)", "3 spectral norms")),
        (Sometimes, ("(model)", "3 spectral norms")),
        (Untraceable, ("features", "2 spectral norms")),
    ],
)
def test_a_layer_that_is_not_called_once_in_each_forward_stays_outside_of_the_group(form, make, group):
    model, plain = build(form, make)
    report = fastgan.accelerate(model, check=True, example_inputs=(images(),))
    assert [(s.path, s.what) for s in report.swapped if s.by == "one group"] == [group]
    assert "0 swaps undone" in report.check
    for seed in range(2):
        assert_steps_are_torchs(model, plain, images(seed))
    if make is Sometimes:
        for deep in (True, False):
            assert_same(model(images(), deep=deep), plain(images(), deep=deep))
            assert_same(dict(model.named_buffers()), dict(plain.named_buffers()))


@pytest.mark.parametrize("form", FORMS)
def test_the_check_notices_wrong_u_and_v(form, monkeypatch):
    model, plain = build(form, Sometimes)
    swaps = importlib.import_module("fastgan.acceleration.accelerate")
    monkeypatch.setattr(swaps, "find_groups", lambda layers, flow: {model: layers})
    report = fastgan.accelerate(model, check=True, example_inputs=(images(),))
    (entry,) = (entry for entry in report.left if "check" in entry.why)
    assert (entry.path, entry.what) == ("(model)", "4 spectral norms")
    assert "buffers differ by" in entry.why
    assert len(report.swapped) == 6
    assert not model._forward_pre_hooks
    assert not model._forward_hooks
    assert_steps_are_torchs(model, plain, images())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", ["features", ""])
def test_u_and_v_of_layers_in_evaluation_mode_stay(form, part):
    model, plain = build(form)
    for m in (model, plain):
        m.get_submodule(part).eval()
    fastgan.accelerate(model)
    assert [m.training for m in model.features.modules()] == [False] * len(list(model.features.modules()))
    assert_steps_are_torchs(model, plain, images())


@pytest.mark.parametrize("form", FORMS)
def test_the_norm_is_removed_as_torchs_is(form):
    model, plain = build(form)
    fastgan.accelerate(model)
    for m in (model, plain):
        m(images())
        if form is hook_form:
            remove_spectral_norm(m.conv)
        else:
            m.eval()
            nn.utils.parametrize.remove_parametrizations(m.conv, "weight")
            m.train()
    assert list(model.state_dict()) == list(plain.state_dict())
    assert_same(derivatives(model, images(2)), derivatives(plain, images(2)))
    assert_same(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: nn.Linear(3, 5), torch.randn(2, 3)),
        (lambda: nn.Conv1d(3, 4, 2), torch.randn(2, 3, 5)),
        (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), torch.randn(2, 3, 5, 4)),
        (lambda: nn.Embedding(7, 3), torch.tensor([1, 5])),
    ],
)
def test_every_kind_of_layer_by_itself(form, layer, x):
    model, plain = build(form, lambda form: nn.Sequential(form(layer(), n_power_iterations=2)))
    assert len(fastgan.accelerate(model).swapped) == 1
    x = x.double() if x.is_floating_point() else x
    for _ in range(2):
        outputs = [m(x) for m in (model, plain)]
        assert_same(*outputs)
        model_first = zip(outputs, (model, plain), strict=True)
        assert_same(*(torch.autograd.grad(y.square().sum(), m.parameters()) for y, m in model_first))
        assert_same(model.state_dict(), plain.state_dict())


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (lambda: hook_form(nn.Linear(3, 5), name="bias"), "its parameter is `bias`"),
        (lambda: parametrizations.spectral_norm(nn.Linear(3, 5), name="bias"), "its parameter is `bias`"),
        (lambda: hook_form(nn.LayerNorm(3)), "a weight of one axis"),
        (lambda: parametrizations.spectral_norm(nn.LayerNorm(3)), "a weight of one axis"),
        (
            lambda: parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 5))),
            "it comes after another parametrization",
        ),
    ],
)
def test_norms_that_are_left(layer, why):
    report = fastgan.accelerate(nn.Sequential(layer()))
    assert not report.swapped
    assert [entry.path for entry in report.left] == ["0"]
    assert why in report.left[0].why


@pytest.mark.parametrize("form", FORMS)
def test_undoing_puts_everything_back(form, monkeypatch):
    model, plain = build(form)

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(spectral, "group_layers", fail)
    with pytest.raises(MemoryError):
        fastgan.accelerate(model)
    assert repr(model) == repr(plain)
    hooks = ([type(h) for each in m.modules() for h in each._forward_pre_hooks.values()] for m in (model, plain))
    assert next(hooks) == next(hooks)
    assert_same(derivatives(model, images()), derivatives(plain, images()))
