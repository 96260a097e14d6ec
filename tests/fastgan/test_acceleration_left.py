"""What looks like something that accelerate swaps and is not: left as it is, with the reason."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.nn import BiasAct


def assert_left(model, path, why):
    """Nothing is swapped, ``path`` is reported with a reason that contains ``why``, and no class changes."""
    types = [type(m) for m in model.modules()]
    report = fastgan.accelerate(model)
    assert not report.swapped, report
    reasons = {entry.path: entry.why for entry in report.left}
    assert path in reasons, report
    assert why in reasons[path], reasons[path]
    assert [type(m) for m in model.modules()] == types


class Styled(nn.Module):
    """AdaIN but for ``normalize``."""

    def __init__(self, normalize, norm=None):
        super().__init__()
        self.normalize = normalize
        self.norm = norm
        self.style = nn.Linear(5, 8)

    def forward(self, x, w):
        gamma, beta = self.style(w)[:, :, None, None].chunk(2, dim=1)
        return gamma * self.normalize(self, x) + beta


def moments(x, axes=(2, 3), unbiased=False):
    return x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=unbiased)


def standardize(x, axes=(2, 3), eps=1e-5, unbiased=False):
    mean, var = moments(x, axes, unbiased)
    return (x - mean) / torch.sqrt(var + eps)


def hooked(module, kind="register_forward_hook"):
    getattr(module, kind)(lambda *_: None)
    return module


def test_the_unmodified_adain_is_recognized():
    assert len(fastgan.accelerate(Styled(lambda m, x: standardize(x))).swapped) == 1
    assert len(fastgan.accelerate(Styled(lambda m, x: m.norm(x), nn.InstanceNorm2d(4))).swapped) == 1


@pytest.mark.parametrize(
    ("normalize", "norm", "why"),
    [
        (lambda m, x: standardize(x, unbiased=True), None, "with the biased variance"),
        (lambda m, x: (x - moments(x)[0]) / (moments(x)[1].sqrt() + 1e-5), None, "not (x - mean) / sqrt(var + eps)"),
        (lambda m, x: (x - moments(x)[0]) / (x.std((2, 3), keepdim=True) + 1e-8), None, "with the biased variance"),
        (lambda m, x: standardize(x, (0, 2, 3)), None, "not (x - mean)"),
        (lambda m, x: x / torch.sqrt(moments(x)[1] + 1e-5), None, "not (x - mean)"),
        (lambda m, x: standardize(x.clamp(-1e6, 1e6)), None, "its normalization uses `clamp`"),
        (lambda m, x: standardize(standardize(x)), None, "not (x - mean)"),
        (lambda m, x: m.norm(x), nn.InstanceNorm2d(4, affine=True), "are parameters (affine=True)"),
        (lambda m, x: m.norm(x), nn.InstanceNorm2d(4, track_running_stats=True), "`norm` keeps running statistics"),
        (lambda m, x: m.norm(x), hooked(nn.InstanceNorm2d(4)), "`norm` has a hook, which would not be called any more"),
    ],
)
def test_styled_normalizations_that_are_not_instance_norm(normalize, norm, why):
    assert_left(Styled(normalize, norm), "(model)", why)


class Optional(Styled):
    def forward(self, x, w, strength=1.0):
        return super().forward(x, strength * w)


class Moody(Styled):
    def forward(self, x, w):
        return super().forward(x, w) if self.training else x


class Reduced(Styled):
    def __reduce__(self):
        return (Reduced, (None,))


class OnTheInstance(Styled):
    def __init__(self, *args):
        super().__init__(*args)
        self.forward = self.forward


class Spade(Styled):
    def __init__(self, *args):
        super().__init__(*args)
        self.gamma, self.beta = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x, label):
        return F.instance_norm(x) * self.gamma(label) + self.beta(label)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Optional, "its forward has optional arguments"),
        (Moody, "not the same in training and in evaluation mode"),
        (Reduced, "Reduced overrides pickling"),
        (OnTheInstance, "its forward was set on the instance"),
        (Spade, "no example input"),
    ],
)
def test_adain_in_a_module_that_does_more(kind, why):
    assert_left(kind(lambda m, x: standardize(x)), "(model)", why)


class Function(nn.Module):
    """A module without parameters."""

    def __init__(self, function, kernel=None):
        super().__init__()
        self.function = function
        self.group = 64
        self.register_buffer("kernel", kernel)

    def forward(self, x):
        return self.function(self, x)


def grouped(x, group, consecutive=False, unbiased=False, eps=1e-8, fallback=None):
    n, _, h, w = x.shape
    group = min(group, n)
    if n % group and fallback:
        group = n
    shape = (-1, group, *x.shape[1:]) if consecutive else (group, -1, *x.shape[1:])
    std = torch.sqrt(x.view(shape).var(int(consecutive), unbiased=unbiased) + eps).mean((1, 2, 3))
    std = std.repeat_interleave(group) if consecutive else std.repeat(group)
    return torch.cat([x, std.view(n, 1, 1, 1).expand(n, 1, h, w)], 1)


def depthwise(x, kernel, mode="constant"):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), kernel, groups=x.shape[1])


BINOMIAL = torch.tensor([1.0, 2.0, 1.0])
BLUR = (BINOMIAL[:, None] * BINOMIAL / 16)[None, None].repeat(3, 1, 1, 1)
SKEWED = BLUR * torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("function", "by"),
    [
        (lambda m, x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6), "pixel_norm(eps=1e-06)"),
        (lambda m, x: x / x.pow(2).mean(dim=1, keepdim=True).sqrt(), "pixel_norm(eps=0.0)"),
        (lambda m, x: grouped(x, 4), "minibatch_stddev(group_size=4, num_channels=1)"),
        (lambda m, x: grouped(x, m.group), "minibatch_stddev(group_size=64, num_channels=1)"),
        (lambda m, x: grouped(x, len(x)), "minibatch_stddev(group_size=the batch, num_channels=1)"),
    ],
)
def test_the_unmodified_functions_are_recognized(function, by):
    assert [s.by for s in fastgan.accelerate(Function(function)).swapped] == [by]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda m, x: x / (x.square().mean(1, keepdim=True).sqrt() + 1e-8), "close to pixel_norm"),
        (lambda m, x: F.normalize(x, dim=1) * x.shape[1] ** 0.5, "uses clamp_min"),
        (lambda m, x: F.normalize(x, dim=1, eps=1e-3) * x.shape[1] ** 0.5, "close to pixel_norm"),
        (lambda m, x: F.normalize(x, dim=1), "not recognized"),
        (lambda m, x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8), "not recognized"),
        (lambda m, x: torch.where(x.abs() > 1e5, x, 1.0 * x) * torch.rsqrt(x.square().mean(1, True) + 1e-8), "uses "),
        (lambda m, x: x * torch.rsqrt(x.square().mean(1, True) + 1e-8) + 1e-6 * torch.randn_like(x), "close to pixel_"),
        (lambda m, x: grouped(x, 4, consecutive=True), "for any group size"),
        (lambda m, x: grouped(x, 4, unbiased=True), "for any group size"),
        (lambda m, x: grouped(x, 4, fallback=True), "for any group size"),
        # The 100 is nowhere in the module: every batch up to it has the statistics of the whole batch.
        (lambda m, x: grouped(x, sum([10] * 10)), "for any group size"),
        (lambda m, x: grouped(x, 4, eps=1e-4), "for any group size"),
        (lambda m, x: grouped(x, 4, eps=0.0), "close to minibatch_stddev(group_size=4, num_channels=1)"),
    ],
)
def test_functions_that_are_not_quite_the_op(function, why):
    assert_left(nn.Sequential(Function(function)), "0", why)


def test_a_blur_by_a_kernel_that_is_not_symmetric():
    model = Function(lambda m, x: depthwise(x, m.kernel), SKEWED).double()
    plain = copy.deepcopy(model)
    assert len(fastgan.accelerate(model).swapped) == 1
    x = torch.randn(2, 3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(model(x), plain(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "kernel", "why"),
    [
        (lambda m, x: depthwise(x, m.kernel, "reflect"), BLUR, "no padding by zeros"),
        (lambda m, x: depthwise(x, m.kernel).relu(), BLUR, "no padding by zeros"),
        (lambda m, x: depthwise(x, m.kernel), torch.stack([BLUR[0], BLUR[0], 2 * BLUR[0]]), "differs from channel to"),
        (lambda m, x: depthwise(x, m.kernel / m.kernel[0].sum()), 2 * BLUR, "no padding by zeros"),
    ],
)
def test_filters_that_are_not_upfirdn2d_by_their_buffer(function, kernel, why):
    assert_left(Function(function, kernel), "(model)", why)


class Critic(nn.Module):
    """Two convolutions and an activation, put together by ``run``."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.conv = nn.Conv2d(3, 4, 3)
        self.other = nn.Conv2d(4, 4, 1)
        self.act = nn.LeakyReLU(0.2)
        self.same = nn.LeakyReLU(0.2)
        self.drop = nn.Dropout2d()

    def forward(self, x):
        return self.run(self, x)


def test_the_unmodified_critic_is_recognized():
    report = fastgan.accelerate(Critic(lambda m, x: m.same(m.other(m.act(m.conv(x))))))
    assert len(report.swapped) == 2
    assert not report.left


@pytest.mark.parametrize(
    ("run", "path", "why"),
    [
        (lambda m, x: (lambda h: m.act(h) + h)(m.conv(x)), "act", "its output has 2 uses"),
        (lambda m, x: (lambda h: (m.act(h), h))(m.conv(x)), "act", "its output has 2 uses"),
        (lambda m, x: (lambda h: m.act(h) - m.same(h))(m.conv(x)), "same", "its output has 2 uses"),
        (lambda m, x: m.act(m.conv(x)) + m.same(m.conv(-x)), "act", "not always followed by this activation"),
        (lambda m, x: m.act(m.conv(x)) + m.conv(-x), "act", "not always followed by this activation"),
        (lambda m, x: m.act(m.drop(m.act(m.conv(x)))), "act", "the output of Dropout2d `drop`"),
        (lambda m, x: m.act(m.conv(x) + 1), "act", "computed in the forward of `(model)`"),
        (lambda m, x: m.act(x), "act", "computed in the forward of `(model)`"),
        (lambda m, x: m.conv(x).relu(), "conv", "a function call"),
        (lambda m, x: torch.relu_(m.conv(x)), "conv", "a function call"),
        (lambda m, x: m.conv(x), "act", "no forward calls it"),
        (lambda m, x: m.act(m.conv(x)) if m.training else m.conv(x), "act", "not always followed by this activation"),
        (lambda m, x: m.act(m.conv(x)) if x.mean() > 0 else x, "act", "the forward of `(model)` cannot be traced"),
    ],
)
def test_activations_whose_layer_has_other_uses(run, path, why):
    assert_left(Critic(run), path, why)


def test_an_argument_that_returns_features_before_the_activation():
    class Labeled(Critic):
        def forward(self, x, with_features=False, label=None):
            h = self.conv(x)
            if with_features:
                return self.act(h), h
            return self.act(h) if label is None else self.act(h) + h * label

    assert_left(Labeled(None), "act", "its output has 2 uses")


SEEN = {"conv": "Conv2d `conv` before it: it has a hook, which would see another output"}


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ("conv", "register_forward_hook"),
        ("conv", "register_full_backward_hook"),
        ("act", "register_forward_pre_hook"),
        ("act", "register_forward_hook"),
        ("act", "register_full_backward_hook"),
    ],
)
def test_a_hook_on_the_layer_or_on_its_activation(layer, kind):
    model = Critic(lambda m, x: m.act(m.conv(x)))
    hooked(getattr(model, layer), kind)
    assert_left(model, "act", SEEN.get(layer, "it has a hook, which would see another input"))


def test_a_hook_on_the_module_that_ends_with_the_layer():
    model = nn.Sequential(nn.Sequential(nn.Dropout(0.1), nn.Conv2d(3, 4, 3)), nn.ReLU())
    assert len(fastgan.accelerate(copy.deepcopy(model)).swapped) == 1
    hooked(model[0])
    assert_left(model, "1", "`0` between them has a hook, which would see another value")


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ((nn.Conv2d(3, 4, 3, bias=False), nn.ReLU()), "it has no bias"),
        ((nn.Conv2d(3, 4, 3), nn.LeakyReLU(-0.1)), "its slope is -0.1"),
        ((nn.LazyConv2d(4, 3), nn.ReLU()), "its parameters are not initialized"),
        ((nn.Embedding(3, 4), nn.ReLU()), "the output of Embedding `0`"),
        ((BiasAct(3), nn.ReLU()), "the output of BiasAct `0`"),
        ((nn.Conv2d(3, 3, 1), nn.InstanceNorm2d(3)), "no scale and shift by a style"),
    ],
)
def test_layers_and_activations_that_the_op_does_not_take(layers, why):
    assert_left(nn.Sequential(*layers), "1", why)


def test_subclasses_with_a_forward_of_their_own():
    class Scaled(nn.Conv2d):
        def _conv_forward(self, x, weight, bias):
            return super()._conv_forward(x, 2 * weight, bias)

    class Quick(nn.Linear):
        def forward(self, x):
            return super().forward(2 * x)

    class Swish(nn.ReLU):
        def forward(self, x):
            return x * x.sigmoid()

    # Traced as the torch layers that they extend, or through.
    for layer in (Scaled(3, 4, 1), Quick(3, 4)):
        assert_left(nn.Sequential(layer, nn.ReLU()), "1", "")
    assert not fastgan.accelerate(nn.Sequential(nn.Conv2d(3, 4, 1), Swish())).swapped
    assert len(fastgan.accelerate(nn.Sequential(type("Named", (nn.Conv2d,), {})(3, 4, 1), nn.ReLU())).swapped) == 1


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.blocks = nn.ModuleList([Critic(lambda m, x: m.act(m.conv(x)))])


def calls_whole(self, x):
    x = self.layers(x)
    for block in self.blocks:
        x = block(x)
    return x if x.mean() > 0 else -x


def iterates(self, x):
    for layer in self.layers:
        x = layer(x)
    return x if x.mean() > 0 else -x


def indexes(self, x):
    h = self.layers[0](x)
    return self.layers[2](self.layers[1](h)) if h.mean() > 0 else h


def calls_by_name(self, x):
    for block in self.blocks:
        x = block(x) if x.mean() > 0 else block.conv(x)
    return self.layers(x)


@pytest.mark.parametrize(
    ("forward", "swapped", "reached"),
    [
        (calls_whole, {"layers.0", "blocks.0.conv"}, None),
        (iterates, {"blocks.0.conv"}, ("layers.1", "layers")),
        (indexes, {"blocks.0.conv"}, ("layers.1", "layers")),
        (calls_by_name, {"layers.0"}, ("blocks.0.act", "blocks.0")),
    ],
)
def test_a_forward_that_cannot_be_traced_and_may_reach_between_the_layers(forward, swapped, reached):
    report = fastgan.accelerate(type("Reaching", (Untraceable,), {"forward": forward})())
    assert {s.path for s in report.swapped} == swapped
    if reached:
        reasons = {entry.path: entry.why for entry in report.left}
        assert f"may call the layers of `{reached[1]}` one by one" in reasons[reached[0]]


def test_modules_that_are_closed():
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        script = torch.jit.script(copy.deepcopy(pair))
    assert_left(nn.Sequential(script), "0", "ScriptModule")
    assert_left(nn.Sequential(torch.compile(copy.deepcopy(pair))), "0", "accelerate it before torch.compile")
    compiled = copy.deepcopy(pair)
    compiled.compile()
    assert_left(compiled, "(model)", "accelerate it before torch.compile")
    assert_left(nn.Sequential(BiasAct(4)), "0", "a layer of fastgan already")


def test_tracing_leaves_no_trace():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.count = [], 0
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.constant = torch.ones(4, 1, 1)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            x = self.layers(x) * self.constant + torch.ones(1)
            self.features.append(x)
            self.count += 1
            self.last = x
            self.seen.add_(1)
            return x

    calls = []
    model = Recorder()
    model.layers.register_forward_hook(lambda *_: calls.append(1))
    before = {name: dict(vars(m)) for name, m in model.named_modules()}
    assert len(fastgan.accelerate(model).swapped) == 1
    assert {name: vars(m) for name, m in model.named_modules()} == before
    assert (model.features, model.count, model.seen.item(), calls) == ([], 0, 0, [])
