"""accelerate on whole models: the report is right, and the model computes, learns, saves and copies as before."""

import copy
import importlib
import io
import pickle

import plain_models
import pytest
import torch
from torch import nn

import fastgan
from fastgan.acceleration import Report
from fastgan_kernels import use_backend

style_generator = plain_models.StyleGenerator, (3, 12)
dcgan_discriminator = plain_models.DCGANDiscriminator, (4, 3, 16, 16)


def build(described):
    """The model in float64, an untouched copy of it, and an input."""
    torch.manual_seed(0)
    make, shape = described
    model = make().double()
    return model, copy.deepcopy(model), torch.randn(shape, dtype=torch.float64)


def derivatives(model, x, seed=1):
    """Output, gradients, and gradients of the squared length of the input's gradient, with noise from ``seed``."""
    torch.manual_seed(seed)
    leaves = [x.clone().requires_grad_(), *model.parameters()]
    y = model(leaves[0])
    cotangent = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))
    first = torch.autograd.grad((y * cotangent).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [t.detach() for t in (y, *first, *second)]


def assert_same(actual, expected, tolerance=1e-10):
    top = max(e.abs().max().item() for e in expected)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance * min(top, 1.0))


def swapped(report):
    return {s.path: (s.what, s.by) for s in report.swapped}


def left(report):
    return {entry.path: entry.why for entry in report.left}


@pytest.mark.parametrize("described", [style_generator, dcgan_discriminator])
def test_outputs_and_gradients_of_both_orders_are_those_of_the_plain_model(described):
    """With the parameters that optimizers hold, and under the names that checkpoints have."""
    model, plain, x = build(described)
    parameters, state = list(model.parameters()), model.state_dict()
    assert fastgan.accelerate(model).swapped
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [(name, t.data_ptr()) for name, t in model.state_dict().items()] == [
        (name, t.data_ptr()) for name, t in state.items()
    ]
    assert_same(derivatives(model, x), derivatives(plain, x))
    model.eval()
    plain.eval()
    assert_same(derivatives(model, x), derivatives(plain, x))
    # What is accelerated once is left.
    report = fastgan.accelerate(model)
    assert not report.swapped
    assert "it is accelerated already" in left(report).values()


def test_through_the_kernels_and_compiled_whole():
    model, plain, x = build(dcgan_discriminator)
    with use_backend("triton"):
        assert fastgan.accelerate(model).backend.backend == "triton"
        assert_same(derivatives(model, x), derivatives(plain, x))
    compiled = torch.compile(model.eval(), fullgraph=True, backend="aot_eager")
    assert_same([compiled(x)], [plain.eval()(x)])


def test_report_of_a_style_generator():
    model, _, x = build(style_generator)
    report = fastgan.accelerate(model, check=True, example_inputs=(x,))
    assert swapped(report) == {
        "mapping.0": ("PixelNorm", "pixel_norm(eps=1e-08)"),
        "mapping.1": ("Linear + LeakyReLU `mapping.2`", "bias_act(lrelu, 0.2)"),
        "mapping.3": ("Linear + LeakyReLU `mapping.4`", "bias_act(lrelu, 0.2)"),
        **{f"blocks.{i}.conv": (f"Conv2d + LeakyReLU `blocks.{i}.lrelu`", "bias_act(lrelu, 0.2)") for i in range(4)},
        "blocks.0.adain": ("AdaINChunk", "adain(eps=1e-05)"),
        "blocks.1.adain": ("AdaINByHand", "adain(eps=1e-06)"),
        "blocks.2.adain": ("AdaINFlat", "adain(eps=1e-05)"),
        "blocks.3.adain": ("AdaINFunctional", "adain(eps=0.0001)"),
    }
    assert left(report).keys() == {*(f"blocks.{i}.noise" for i in range(4)), "blocks.0.adain.style"}
    assert "second-order gradients agree in float64" in report.check
    assert "0 swaps undone" in report.check


def test_report_of_a_dcgan():
    report = fastgan.accelerate(build(dcgan_discriminator)[0])
    assert swapped(report) == {
        "conv1": ("Conv2d and `conv2` + LeakyReLU `act`", "bias_act(lrelu, 0.2)"),
        "blur": ("Blur", "upfirdn2d(weight, padding=[1, 1, 1, 1])"),
        "norm": ("BatchNorm2d", "norm_act(linear)"),
        "stddev": ("MinibatchStdDev", "minibatch_stddev(group_size=4, num_channels=1)"),
        "head.1": ("Linear + LeakyReLU `head.2`", "bias_act(lrelu, 0.2)"),
    }
    assert not report.left


def test_report_prints_as_a_table_that_says_where_it_runs():
    model = nn.Sequential(nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.ReLU(), nn.Dropout2d(), nn.ReLU())
    text = str(fastgan.accelerate(model, dry_run=True))
    assert text.startswith("1 would be swapped, 1 left\n")
    assert "  0       ConvTranspose2d + ReLU `1`  bias_act(relu)\n" in text
    assert "the output of Dropout2d `2`" in text
    assert text.endswith(
        "the ops run on reference: Triton has no kernels for the CPU; it is not faster than plain torch"
    )
    assert str(fastgan.accelerate(model)).startswith("1 swapped, 1 left\n")


def test_copies_and_pickles_keep_the_swaps_and_are_independent():
    model, _, x = build(style_generator)
    fastgan.accelerate(model)
    expected = derivatives(model, x)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    for twin in twins:
        assert repr(twin) == repr(model)
        assert "accelerated" in repr(twin)
        assert_same(derivatives(twin, x), expected)


def test_dry_run_and_what_was_not_swapped_change_nothing():
    model, plain, _ = build(style_generator)
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}
    state = torch.get_rng_state()
    report = fastgan.accelerate(model, dry_run=True)
    assert report.dry_run
    assert len(report.swapped) == 11
    assert torch.equal(torch.get_rng_state(), state)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert {name: vars(m) for name, m in model.named_modules()} == attributes
    assert not any("_tensor_constant" in name for m in model.modules() for name in vars(m))
    assert fastgan.accelerate(model).swapped == report.swapped


def test_check_changes_no_value_buffer_mode_gradient_or_random_state():
    model, _, x = build(dcgan_discriminator)
    model = model.float()
    model.norm.eval()
    model.conv1.bias.requires_grad_(False)
    model(x.float()).sum().backward()
    values = {name: t.clone() for name, t in model.state_dict().items()}
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    parameters = [(p, p.data_ptr(), p.requires_grad) for p in model.parameters()]
    state = torch.get_rng_state()
    report = fastgan.accelerate(model, check=True, example_inputs=(x.float(),))
    assert "float64" in report.check
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert value.dtype == values[name].dtype
        assert torch.equal(value, values[name]), name
    assert [(p, p.data_ptr(), p.requires_grad) for p in model.parameters()] == parameters
    assert all(torch.equal(g, before) for g, before in gradients)
    assert not model.norm.training
    assert model.training


class Fast(nn.Module):
    """A right replacement of EqualLinear."""

    def __init__(self, old):
        super().__init__()
        self.weight, self.bias, self.scale = old.weight, old.bias, old.scale

    def forward(self, x):
        return nn.functional.linear(x * self.scale, self.weight, self.bias)


class Shifted(Fast):
    def forward(self, x):
        return super().forward(x) + 1e-5


class Failing(Fast):
    def forward(self, x):
        raise RuntimeError("no")


@pytest.mark.parametrize(("wrong", "why"), [(Shifted, "differ by"), (Failing, "the model fails: no")])
def test_check_undoes_the_swap_that_differs_or_fails_and_no_other(wrong, why):
    model, plain, x = build(style_generator)
    mapping = {plain_models.EqualLinear: wrong}
    report = fastgan.accelerate(model, mapping=mapping, check=True, example_inputs=(x,))
    assert len(report.swapped) == 11
    assert "undone by the check: " in left(report)["blocks.0.adain.style"]
    assert why in left(report)["blocks.0.adain.style"]
    assert "1 swaps undone" in report.check
    assert type(model.blocks[0].adain.style) is plain_models.EqualLinear
    assert_same(derivatives(model, x), derivatives(plain, x))


def test_check_in_the_models_own_types_where_its_code_fixes_one():
    class Fixed(nn.Sequential):
        def forward(self, x):
            return super().forward(x.float())

    report = fastgan.accelerate(Fixed(nn.Linear(4, 5), nn.ReLU()), check=True, example_inputs=(torch.randn(2, 4),))
    assert "it does not run in float64" in report.check
    assert "0 swaps undone" in report.check
    assert len(report.swapped) == 1


@pytest.mark.parametrize("check", [True, False])
def test_after_an_error_the_model_is_as_it_was(check, monkeypatch):
    model, plain, x = build(style_generator)
    if check:
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            fastgan.accelerate(model, check=True, example_inputs=(x[:, :5],))
    else:
        finding = importlib.import_module("fastgan.acceleration.accelerate")
        calls = []

        def fail(module, *rest):
            calls.append(module)
            if len(calls) == 4:
                raise MemoryError
            return original(module, *rest)

        original = finding.rewrite
        monkeypatch.setattr(finding, "rewrite", fail)
        with pytest.raises(MemoryError):
            fastgan.accelerate(model)
        assert len(calls) == 4
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert_same(derivatives(model, x), derivatives(plain, x), 0)


def test_hooks_see_the_same_values_as_before():
    model, plain, x = build(style_generator)
    seen = {}
    for m in (model, plain):
        seen[m] = []
        block = m.blocks[1]
        block.register_forward_hook(lambda _, args, out, log=seen[m]: log.append(out))
        block.adain.register_forward_hook(lambda _, args, out, log=seen[m]: log.append(out))
        block.adain.register_full_backward_hook(lambda _, gx, gy, log=seen[m]: log.extend(gx))
        block.adain.to_scale.register_forward_hook(lambda _, args, out, log=seen[m]: log.append(out))
        block.conv.register_forward_pre_hook(lambda _, args, log=seen[m]: log.append(args[0]))
        m.mapping[0].register_forward_hook(lambda _, args, out, log=seen[m]: log.append(out))
    assert len(fastgan.accelerate(model).swapped) == 11
    for m in (model, plain):
        torch.manual_seed(3)
        m(x).sum().backward()
    assert len(seen[model]) == 7

    # The order in which a pure function calls its layers is not part of what it computes.
    def key(t):
        return tuple(t.shape), t.flatten()[0].item().__round__(6)

    assert_same(sorted(seen[model], key=key), sorted(seen[plain], key=key))


def test_a_module_in_two_places_is_swapped_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = plain_models.AdaINChunk(4, 5)
            self.b = self.a
            self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.ReLU()])
            self.same = nn.Sequential(*self.layers)

        def forward(self, x, w):
            return self.same(self.b(self.same(self.a(x, w)), w))

    model = Twice().double()
    plain = copy.deepcopy(model)
    report = fastgan.accelerate(model)
    assert swapped(report).keys() == {"a", "layers.0"}
    assert model.a is model.b
    inputs = torch.randn(2, 4, 3, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    torch.testing.assert_close(model(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)


def test_a_module_whose_settings_change_afterwards_runs_its_old_forward():
    model, plain, x = build(style_generator)
    fastgan.accelerate(model)
    for eps in (0.5, 1e-6):
        for m in (model, plain, copy.deepcopy(model)):
            m.blocks[1].adain.eps = eps
        assert_same(derivatives(model, x), derivatives(plain, x))


def test_one_batch_of_styles_for_all_images_and_the_reverse():
    model = plain_models.AdaINChunk(4, 5).double()
    plain = copy.deepcopy(model)
    fastgan.accelerate(model)
    for n, m in ((3, 1), (1, 3)):
        inputs = torch.randn(n, 4, 3, 3, dtype=torch.float64), torch.randn(m, 5, dtype=torch.float64)
        torch.testing.assert_close(model(*inputs), plain(*inputs), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="as many axes as x of shape"):
        model(torch.randn(4, 4, 3).double(), torch.randn(1, 5).double())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(6, 4), (5, 3, 6)),
        (nn.Linear(6, 4), (6,)),
        (nn.Conv1d(6, 4, 3), (2, 6, 9)),
        (nn.Conv2d(6, 4, 3, padding="same", padding_mode="circular"), (2, 6, 5, 4)),
        (nn.Conv2d(6, 4, 3, groups=2, dilation=2), (6, 8, 7)),
        (nn.Conv3d(6, 4, 2), (1, 6, 3, 4, 2)),
        (nn.ConvTranspose1d(6, 4, 3, stride=2, output_padding=1), (2, 6, 5)),
        (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1), (6, 5, 4)),
        (nn.ConvTranspose3d(6, 4, 2), (1, 6, 2, 2, 3)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else str(v),
)
@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(0.3, inplace=True)], ids=str)
def test_every_layer_with_every_activation(layer, shape, act):
    model = nn.Sequential(layer, act).double()
    plain = copy.deepcopy(model)
    model = copy.deepcopy(model)
    assert len(fastgan.accelerate(model).swapped) == 1
    x = torch.randn(shape, dtype=torch.float64)
    assert_same(derivatives(model, x), derivatives(plain, x))


def test_a_transposed_convolution_still_takes_output_size():
    class Sized(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x, output_size=[8, 8]))

    model = Sized(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), nn.ReLU())
    plain, x = copy.deepcopy(model), torch.randn(1, 2, 4, 4)
    assert len(fastgan.accelerate(model).swapped) == 1
    assert model(x).shape == (1, 3, 8, 8)
    torch.testing.assert_close(model(x), plain(x))


def test_a_parametrized_layer_is_fused_and_its_parametrization_can_be_removed():
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    model = nn.Sequential(layer, nn.ReLU()).double()
    twin = copy.deepcopy(model)
    plain = copy.deepcopy(model)
    assert len(fastgan.accelerate(model).swapped) == 1
    assert type(twin[0]) is type(plain[0])  # copies share the class that torch made for the layer
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    assert_same(derivatives(model, x), derivatives(plain, x))
    assert_same(derivatives(copy.deepcopy(model), x), derivatives(plain, x))
    for m in (model, plain):
        nn.utils.parametrize.remove_parametrizations(m[0], "weight")
    assert list(model.state_dict()) == list(plain.state_dict())
    assert_same(derivatives(model, x), derivatives(plain, x))
    assert "accelerated" in repr(model[0])


def test_mapping_replaces_by_class_and_keeps_hooks_and_mode():
    model, plain, x = build(style_generator)
    model.eval()
    plain.eval()
    calls = []
    handle = model.blocks[0].adain.style.register_forward_hook(lambda *_: calls.append(1))
    mapping = {plain_models.EqualLinear: Fast, plain_models.NoiseInjection: lambda _: None}
    report = fastgan.accelerate(model, mapping=mapping)
    assert swapped(report)["blocks.0.adain.style"] == ("EqualLinear", "Fast, by its converter")
    assert left(report)["blocks.2.noise"] == "its converter left it"
    assert not model.blocks[0].adain.style.training
    assert list(model.state_dict()) == list(plain.state_dict())
    assert_same(derivatives(model, x), derivatives(plain, x))
    assert len(calls) == 1
    handle.remove()
    model(x)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("converter", "error", "message"),
    [
        (lambda m: "x", TypeError, "returned for `blocks.0.adain.style` a str, expected a module"),
        (lambda m: m, ValueError, "the same module"),
        (lambda m: nn.Linear(12, 16), ValueError, "other parameters"),
        (lambda m: nn.Identity(), ValueError, "other parameters"),
    ],
)
def test_a_replacement_with_other_parameters_is_refused(converter, error, message):
    model, plain, _ = build(style_generator)
    with pytest.raises(error, match=message):
        fastgan.accelerate(model, mapping={plain_models.EqualLinear: converter})
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]


def test_bad_arguments_are_refused_in_a_sentence():
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"^accelerate: model is a function, expected a torch.nn.Module$"):
        fastgan.accelerate(lambda x: x)
    with pytest.raises(TypeError, match=r"^accelerate: example_inputs is a Tensor, expected a sequence of the model's"):
        fastgan.accelerate(nn.Linear(2, 2), check=True, example_inputs=torch.zeros(1, 2))
    with pytest.raises(ValueError, match="check=True needs example_inputs"):
        fastgan.accelerate(model, check=True)
    with pytest.raises(ValueError, match="needs the swaps"):
        fastgan.accelerate(model, check=True, dry_run=True, example_inputs=(torch.ones(2),))
    assert isinstance(fastgan.accelerate(model), Report)
