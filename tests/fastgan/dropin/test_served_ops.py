"""Each function of ``torch_utils.ops`` and of ``op``: its signature, values and gradients to second order, refusals."""

import inspect
import math

import numpy as np
import pytest
import torch

import fastgan_kernels
from fastgan.dropin.nvidia import bias_act as bias
from fastgan.dropin.nvidia import conv2d_gradfix, conv2d_resample, filtered_lrelu, fma, grid_sample_gradfix
from fastgan.dropin.nvidia import upfirdn2d as fir
from fastgan.dropin.rosinality import fused_act
from fastgan.dropin.rosinality import upfirdn2d as fir_of_op
from fastgan_kernels import use_backend
from tests.fastgan.dropin import plain_ops

SQRT2 = math.sqrt(2)
SIGNATURES = [
    (bias.bias_act, "x, b=None, dim=1, act='linear', alpha=None, gain=None, clamp=None, impl='cuda'"),
    (fir.setup_filter, "f, device=device(type='cpu'), normalize=True, flip_filter=False, gain=1, separable=None"),
    (fir.upfirdn2d, "x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl='cuda'"),
    (fir.filter2d, "x, f, padding=0, flip_filter=False, gain=1, impl='cuda'"),
    (fir.upsample2d, "x, f, up=2, padding=0, flip_filter=False, gain=1, impl='cuda'"),
    (fir.downsample2d, "x, f, down=2, padding=0, flip_filter=False, gain=1, impl='cuda'"),
    (
        filtered_lrelu.filtered_lrelu,
        f"x, fu=None, fd=None, b=None, up=1, down=1, padding=0, gain={SQRT2}, slope=0.2, clamp=None,"
        " flip_filter=False, impl='cuda'",
    ),
    (
        conv2d_resample.conv2d_resample,
        "x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False",
    ),
    (fma.fma, "a, b, c"),
    (conv2d_gradfix.conv2d, "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1"),
    (
        conv2d_gradfix.conv_transpose2d,
        "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
    ),
    (conv2d_gradfix.no_weight_gradients, "disable=True"),
    (grid_sample_gradfix.grid_sample, "input, grid"),
    (fused_act.FusedLeakyReLU, f"channel, bias=True, negative_slope=0.2, scale={SQRT2}"),
    (fused_act.fused_leaky_relu, f"input, bias=None, negative_slope=0.2, scale={SQRT2}"),
    (fir_of_op.upfirdn2d, "input, kernel, up=1, down=1, pad=(0, 0)"),
]


@pytest.mark.parametrize(("function", "expected"), SIGNATURES, ids=lambda v: getattr(v, "__name__", ""))
def test_names_order_and_defaults_of_arguments(function, expected):
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert ", ".join(map(str, bare)) == expected
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in bare)


def images(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def compare(ours, plain, *leaves, tolerance=1e-10):
    plain_ops.assert_close(plain_ops.orders(ours, leaves), plain_ops.orders(plain, leaves), tolerance)


# bias_act


@pytest.mark.parametrize("act", list(bias.activation_funcs))
@pytest.mark.parametrize("settings", [{}, {"gain": 0.7, "clamp": 0.5}], ids=["default", "gain-clamp"])
def test_bias_act_of_every_activation(act, settings):
    x, b = images(2, 3, 4, 5), images(3, seed=1)
    compare(
        lambda x, b: bias.bias_act(x, b, act=act, **settings),
        lambda x, b: plain_ops.bias_act(x, b, act=act, **settings),
        x, b,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "dim"), [((5,), 0), ((4, 5), 0), ((4, 5), 1), ((2, 3, 5), 2), ((2, 3, 4, 5), 2), ((2, 3, 2, 2, 3), 3)]
)
def test_bias_act_along_any_axis(shape, dim):
    x, b = images(*shape), images(shape[dim], seed=1)
    compare(
        lambda x, b: bias.bias_act(x, b, dim=dim, act="lrelu", alpha=0.3),
        lambda x, b: plain_ops.bias_act(x, b, dim=dim, act="lrelu", alpha=0.3),
        x, b,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (4, 5), (2, 3, 4), (2, 3, 4, 5, 2)])
@pytest.mark.parametrize("dim", [1, 7])
def test_bias_act_without_a_bias_ignores_the_axis(shape, dim):
    x = images(*shape)
    y = bias.bias_act(x, dim=dim, act="relu")
    torch.testing.assert_close(y, torch.relu(x) * SQRT2)


def test_bias_act_clamps_at_zero_and_at_infinity():
    x = images(2, 3).requires_grad_()
    y = bias.bias_act(x, act="lrelu", clamp=0)
    assert torch.equal(y, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))
    torch.testing.assert_close(bias.bias_act(x, clamp=math.inf), x)


def test_bias_act_takes_numbers_of_numpy():
    x = images(2, 3)
    y = bias.bias_act(x, act="lrelu", alpha=np.float32(0.5), gain=np.sqrt(2), clamp=np.int64(1), dim=np.int64(1))
    torch.testing.assert_close(y, plain_ops.bias_act(x, act="lrelu", alpha=0.5, clamp=1))


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5)])
def test_bias_act_of_contiguous_memory_copies_nothing(shape, monkeypatch):
    x, fused, seen = images(*shape), fastgan_kernels.bias_act, []
    monkeypatch.setattr(fastgan_kernels, "bias_act", lambda x, *args, **kw: seen.append(x) or fused(x, *args, **kw))
    for dim in range(x.dim()):
        assert bias.bias_act(x, images(shape[dim]), dim=dim).shape == x.shape
    assert {t.data_ptr() for t in seen} == {x.data_ptr()}


def test_bias_act_keeps_layout_and_type():
    x = images(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert bias.bias_act(x, images(3), act="lrelu").is_contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        y = bias.bias_act(x.to(dtype), images(3).to(dtype), act="lrelu")
        assert y.dtype == dtype
        torch.testing.assert_close(y.double(), plain_ops.bias_act(x, images(3), act="lrelu"), rtol=0.02, atol=0.02)


def test_activations_have_their_defaults():
    funcs = bias.activation_funcs
    assert {name: (f.def_alpha, f["def_gain"]) for name, f in funcs.items()} == {
        "linear": (0, 1), "relu": (0, SQRT2), "lrelu": (0.2, SQRT2), "tanh": (0, 1), "sigmoid": (0, 1), "elu": (0, 1),
        "selu": (0, 1), "softplus": (0, 1), "swish": (0, SQRT2),
    }  # fmt: skip
    x = images(2, 3)
    torch.testing.assert_close(funcs["lrelu"].func(x, alpha=0.1), torch.nn.functional.leaky_relu(x, 0.1))
    assert not hasattr(funcs["lrelu"], "nothing")


# upfirdn2d


@pytest.mark.parametrize(
    ("taps", "settings"),
    [
        ([1, 3, 3, 1], {}),
        ([[1, 2, 3], [4, 5, 7]], {"up": 2, "down": 3, "padding": 2}),
        ([[1, 2, 4]], {"up": (2, 1), "padding": (1, 0)}),
        ([[1], [3]], {"down": [1, 2], "padding": [0, 1, 2, -1]}),
        (list(range(1, 13)), {"up": 2, "padding": (6, 5, 6, 5), "gain": 4}),
        (list(range(1, 9)), {"down": (2, 4), "padding": 3, "gain": 3}),
        ([2], {"gain": 2}),
        (None, {"up": (3, 2), "padding": (-1, 1, -2, 0)}),
        ([[1, 2], [4, 8]], {"flip_filter": True, "padding": (np.int64(1), np.int32(2)), "up": np.int64(2)}),
    ],
)
def test_upfirdn2d(taps, settings):
    separable = taps is not None and not isinstance(taps[0], list)
    f = None if taps is None else fir.setup_filter(taps, normalize=False, separable=separable)
    compare(
        lambda x: fir.upfirdn2d(x, f, **settings), lambda x: plain_ops.upfirdn2d(x, f, **settings), images(2, 3, 6, 7)
    )


@pytest.mark.parametrize(
    ("function", "settings"),
    [
        ("filter2d", {}),
        ("filter2d", {"padding": (1, 2), "flip_filter": True, "gain": 2}),
        ("upsample2d", {}),
        ("upsample2d", {"up": (3, 2), "padding": (0, 1, -1, 2)}),
        ("downsample2d", {}),
        ("downsample2d", {"down": [2, 1], "padding": 1, "gain": 0.5}),
    ],
)
@pytest.mark.parametrize("taps", [[1, 3, 3, 1], [[1, 2, 3]], None])
def test_resampling_by_its_helpers(function, settings, taps):
    f = None if taps is None else fir.setup_filter(taps)
    ours, plain = getattr(fir, function), getattr(plain_ops, function)
    compare(lambda x: ours(x, f, **settings), lambda x: plain(x, f, **settings), images(2, 2, 6, 8))


def test_filters_are_set_up_as_described():
    square = torch.tensor([[1.0, 3.0], [3.0, 9.0]]) / 16
    for f in ([1, 3], np.array([1, 3]), torch.tensor([1.0, 3.0])):
        assert torch.equal(fir.setup_filter(f), square)
    assert fir.setup_filter(list(range(8))).shape == (8,)
    assert fir.setup_filter([1, 2, 1], separable=True).tolist() == [0.25, 0.5, 0.25]
    assert torch.equal(fir.setup_filter(None), torch.ones(1, 1))
    assert torch.equal(fir.setup_filter(2, normalize=False), torch.full((1, 1), 4.0))
    assert fir.setup_filter([1, 3], flip_filter=True).tolist() == square.flip(0, 1).tolist()
    assert torch.equal(fir.setup_filter([1, 3], gain=4), square * 4)
    assert fir.setup_filter([1, 3], gain=4, separable=True).tolist() == [0.5, 1.5]
    assert fir.setup_filter([[1, 2, 1]]).shape == (1, 3)
    given = torch.tensor([1.0, 3.0])
    fir.setup_filter(given, separable=True)
    assert given.tolist() == [1, 3]


# filtered_lrelu


@pytest.mark.parametrize(
    ("up_taps", "down_taps", "settings"),
    [
        (12, 12, {"up": 2, "down": 2, "padding": (9, 10)}),
        (24, 12, {"up": 4, "down": 2, "padding": [20, 21, 18, -3], "clamp": 0.3, "gain": 1.5, "slope": 0.1}),
        ((6, 6), (4, 6), {"up": 2, "padding": 5, "flip_filter": True}),
        (None, None, {"slope": 1, "gain": 1, "clamp": 1}),
        (None, 8, {"up": 3, "down": 4, "padding": np.int64(4), "clamp": 0}),
    ],
)
def test_filtered_lrelu(up_taps, down_taps, settings):
    def draw(shape, seed):
        shape = shape if isinstance(shape, tuple) else (shape,)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) / math.prod(shape)

    fu, fd = (None if s is None else draw(s, i) for i, s in enumerate((up_taps, down_taps)))
    compare(
        lambda x, b: filtered_lrelu.filtered_lrelu(x, fu, fd, b, **settings),
        lambda x, b: plain_ops.filtered_lrelu(x, fu, fd, b, **settings),
        images(2, 3, 5, 6), images(3, seed=1),
    )  # fmt: skip


# convolutions


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 1},
        {"padding": (2, 1, 0, 1), "flip_weight": False},
        {"up": 2, "padding": 1},
        {"down": 2, "padding": (1, 0)},
        {"up": 2, "down": 3, "padding": 2, "flip_filter": True, "flip_weight": False},
        {"up": 3, "groups": 2, "padding": 2, "flip_weight": False},
        {"down": 2, "groups": 2, "padding": 2},
    ],
    ids=str,
)
def test_conv2d_resample(size, settings):
    f = fir.setup_filter([[1, 3, 2], [2, 5, 1]])
    w = images(6, 4 // settings.get("groups", 1), size, size, seed=1)
    compare(
        lambda x, w: conv2d_resample.conv2d_resample(x, w, f, **settings),
        lambda x, w: plain_ops.conv2d_resample(x, w, f, **settings),
        images(2, 4, 6, 7), w,
    )  # fmt: skip


def test_conv2d_resample_respects_the_switch_of_its_package():
    x, w = images(1, 2, 4, 4).requires_grad_(), images(2, 2, 3, 3, seed=1).requires_grad_()
    with conv2d_gradfix.no_weight_gradients():
        conv2d_resample.conv2d_resample(x, w, padding=1).sum().backward()
    assert w.grad is None
    assert x.grad is not None


def test_fma_broadcasts():
    compare(lambda a, b, c: fma.fma(a, b, c), lambda a, b, c: a * b + c, images(2, 3, 4), images(3, 1), images(1, 4))


def test_grid_sample_differentiates_to_any_order_through_its_input():
    x, grid = images(2, 2, 5, 4).requires_grad_(), images(2, 3, 4, 2, seed=1)

    def gradient(x):
        cubes = grid_sample_gradfix.grid_sample(x, grid).pow(3)
        return torch.autograd.grad(cubes.sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(lambda x: grid_sample_gradfix.grid_sample(x, grid), x)
    assert torch.autograd.gradcheck(gradient, x)
    assert torch.autograd.gradgradcheck(gradient, x, fast_mode=True)
    expected = torch.nn.functional.grid_sample(x, grid, align_corners=False)
    assert torch.equal(grid_sample_gradfix.grid_sample(x, grid), expected)
    functional = torch.func.grad(lambda x: grid_sample_gradfix.grid_sample(x, grid).sum())(x.detach())
    torch.testing.assert_close(functional, torch.autograd.grad(expected.sum(), x)[0])
    moving = grid.clone().requires_grad_()
    ours, theirs = (
        torch.autograd.grad(sample(x, moving).square().sum(), (x, moving))
        for sample in (
            grid_sample_gradfix.grid_sample,
            lambda x, grid: torch.nn.functional.grid_sample(x, grid, align_corners=False),
        )
    )
    torch.testing.assert_close(ours, theirs)


# Of op


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5), (0, 3, 2, 2)])
@pytest.mark.parametrize("settings", [{}, {"negative_slope": 0.5, "scale": 1}])
def test_fused_leaky_relu(shape, settings):
    # The slope that is given holds on the CPU, where the original takes 0.2.
    x, b = images(*shape), images(3, seed=1)
    compare(
        lambda x, b: fused_act.fused_leaky_relu(x, b, **settings),
        lambda x, b: plain_ops.fused_leaky_relu(x, b, **settings),
        x, b,
    )  # fmt: skip
    torch.testing.assert_close(fused_act.fused_leaky_relu(x, **settings), plain_ops.fused_leaky_relu(x, **settings))


def test_the_layer_has_the_parameters_of_the_original():
    layer = fused_act.FusedLeakyReLU(3, negative_slope=0.3, scale=2).double()
    assert [(n, p.shape, p.any().item()) for n, p in layer.named_parameters()] == [("bias", (3,), False)]
    layer.load_state_dict({"bias": images(3)})
    x = images(2, 3, 4, 4)
    torch.testing.assert_close(layer(x), plain_ops.fused_leaky_relu(x, images(3), 0.3, 2))
    bare = fused_act.FusedLeakyReLU(3, bias=False)
    assert bare.bias is None
    assert not bare.state_dict()
    torch.testing.assert_close(bare(x), plain_ops.fused_leaky_relu(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": (2, 1)},
        {"up": 2, "pad": (2, 1)},
        {"down": 2, "pad": [1, 1]},
        {"up": (2, 1), "down": [1, 3], "pad": (3, 0, -1, 4)},
        {"up": np.int64(2), "pad": (np.int64(-1), 2)},
    ],
    ids=str,
)
def test_upfirdn2d_of_op_pads_before_and_after(settings):
    kernel = images(3, 2, seed=1)
    compare(
        lambda x: fir_of_op.upfirdn2d(x, kernel, **settings),
        lambda x: plain_ops.upfirdn2d_of_op(x, kernel, **settings),
        images(2, 3, 6, 7),
    )


# All of them


def test_ref_is_plain_torch_where_kernels_run(monkeypatch):
    ran = []
    for name in ("bias_act", "upfirdn2d", "filtered_lrelu"):
        fused = getattr(fastgan_kernels, name)

        def spy(x, *args, name=name, fused=fused, **settings):
            ran.append(fastgan_kernels.backend_of(name, x).backend)
            return fused(x, *args, **settings)

        monkeypatch.setattr(fastgan_kernels, name, spy)
    x, f = images(2, 3, 5, 5).float(), fir.setup_filter([1, 2, 1])
    calls = [
        lambda impl: bias.bias_act(x, images(3).float(), act="lrelu", impl=impl),
        lambda impl: fir.upfirdn2d(x, f, up=2, impl=impl),
        lambda impl: fir.filter2d(x, f, impl=impl),
        lambda impl: fir.upsample2d(x, f, impl=impl),
        lambda impl: fir.downsample2d(x, f, impl=impl),
        lambda impl: filtered_lrelu.filtered_lrelu(x, f, f, up=2, padding=3, impl=impl),
    ]
    for call in calls:
        expected = call("ref")
        with use_backend("triton"):
            ran.clear()
            assert torch.equal(call("ref"), expected)
            torch.testing.assert_close(call("cuda"), expected)
            assert ran == ["reference", "triton"]
        with pytest.raises(ValueError, match=r"impl is 'opencl', expected 'cuda' or 'ref'"):
            call("opencl")


SHORT, LONG = fir.setup_filter([1, 3, 3, 1]), torch.hann_window(14)[1:-1] / 6.5
# As networks of both families call them: the leaves, and other arguments.
CALLS = [
    (bias.bias_act, "x b", {"act": "lrelu", "gain": 1.3, "clamp": 0.9}),
    (bias.bias_act, "x b", {"act": "swish", "clamp": 1.0}),
    (fir.upsample2d, "x", {"f": SHORT}),
    (fir.downsample2d, "x", {"f": SHORT}),
    (conv2d_resample.conv2d_resample, "x w", {"f": SHORT, "up": 2, "padding": 1, "flip_weight": False}),
    (conv2d_resample.conv2d_resample, "x w", {"f": SHORT, "down": 2, "padding": 1}),
    (
        filtered_lrelu.filtered_lrelu,
        "x b",
        {"fu": LONG, "fd": torch.outer(LONG, LONG), "up": 2, "down": 2, "padding": [10, 9, -2, 20], "clamp": 0.8},
    ),
    (fused_act.fused_leaky_relu, "input bias", {"negative_slope": 0.3, "scale": 1.5}),
    (fir_of_op.upfirdn2d, "input", {"kernel": SHORT, "up": 2, "pad": (2, 1)}),
]


@pytest.mark.parametrize(("function", "names", "settings"), CALLS)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_calls_of_networks_in_float32(function, names, settings, backend):
    drawn = {"x": images(2, 3, 6, 6), "w": images(3, 3, 3, 3, seed=1), "b": images(3, seed=2)}
    leaves = [drawn[{"input": "x", "bias": "b"}.get(name, name)] for name in names.split()]

    def orders(function, leaves):
        return plain_ops.orders(lambda *t: function(**dict(zip(names.split(), t, strict=True)), **settings), leaves)

    is_of_op = function is fir_of_op.upfirdn2d
    expected = orders(plain_ops.upfirdn2d_of_op if is_of_op else getattr(plain_ops, function.__name__), leaves)
    with use_backend(backend):
        plain_ops.assert_close(orders(function, [t.float() for t in leaves]), expected, 1e-5)


def test_compiled_they_compute_the_same_in_one_graph():
    f = fir.setup_filter([1, 3, 3, 1])

    def network(x, w, b):
        y = bias.bias_act(conv2d_resample.conv2d_resample(x, w, f, up=2, padding=1), b, act="lrelu", clamp=1)
        return fir.downsample2d(filtered_lrelu.filtered_lrelu(y, f, f, b, up=2, down=2, padding=3), f).flatten(1)

    leaves = [t.requires_grad_() for t in (images(1, 2, 4, 4), images(2, 2, 3, 3, seed=1), images(2, seed=2))]
    results = [
        (y := call(*leaves), *torch.autograd.grad(y.square().sum(), leaves))
        for call in (network, torch.compile(network, backend="eager", fullgraph=True))
    ]
    torch.testing.assert_close(*results)


def test_scripts_may_set_switches_and_build_ahead():
    assert all((bias._init(), fir._init(), filtered_lrelu._init()))
    assert not any((conv2d_gradfix.enabled, conv2d_gradfix.weight_gradients_disabled, grid_sample_gradfix.enabled))


X, F, W = torch.zeros(1, 2, 4, 4), torch.ones(3, 3), torch.zeros(2, 2, 3, 3)
REFUSED = [
    (bias.bias_act, (X,), {"act": "gelu"}, "act is 'gelu', expected one of 'linear'"),
    (bias.bias_act, (X,), {"act": None}, "act is None, expected one of"),
    (bias.bias_act, ([1.0],), {}, "x is a list, expected a tensor"),
    (bias.bias_act, (X, torch.zeros(3)), {}, "bias has shape [3], expected [2] for x of shape [1, 2, 4, 4]"),
    (bias.bias_act, (X, torch.zeros(2)), {"dim": 4}, "dim is 4, expected an axis of x"),
    (bias.bias_act, (X, torch.zeros(2)), {"dim": -3}, "dim is -3, expected an axis of x"),
    (bias.bias_act, (X,), {"clamp": -1}, "clamp is -1, expected None or a number of at least 0"),
    (bias.bias_act, (X,), {"gain": 0}, "gain is 0, expected a finite number greater than 0"),
    (bias.bias_act, (X,), {"act": "lrelu", "alpha": -0.1}, "slope is -0.1, expected a finite number of at least 0"),
    (fir.setup_filter, (torch.ones(1, 1, 1),), {}, "f has shape [1, 1, 1], expected [height, width]"),
    (fir.setup_filter, (F,), {"separable": True}, "separable is True, but f has shape [3, 3]"),
    (fir.upfirdn2d, (X[0], F), {}, "x has shape [2, 4, 4], expected [N, C, H, W]"),
    (fir.upfirdn2d, (X, F.clone().requires_grad_()), {}, "requires a gradient, expected a constant"),
    (fir.upfirdn2d, (X, F[None]), {}, "has shape [1, 3, 3], expected [kh, kw] or [k]"),
    (fir.upfirdn2d, (X, [1, 2]), {}, "kernel is a list, expected a tensor"),
    (fir.upfirdn2d, (X, torch.ones(5, 5)), {}, "is [5, 5], expected at most [4, 4]"),
    (fir.upfirdn2d, (X, F), {"up": 0}, "up is 0, expected an integer of at least 1"),
    (fir.upfirdn2d, (X, F), {"up": 1.5}, "up is 1.5, expected an integer"),
    (fir.upfirdn2d, (X, F), {"down": (1, 2, 3)}, "down is (1, 2, 3), expected an integer of at least 1 or two"),
    (fir.downsample2d, (X, F), {"down": 0}, "scaling is 0, expected an integer of at least 1"),
    (fir.upfirdn2d, (X, F), {"padding": [1, 2, 3]}, "padding is [1, 2, 3], expected an integer"),
    (filtered_lrelu.filtered_lrelu, (X,), {"b": torch.zeros(3)}, "bias has shape [3], expected [2]"),
    (filtered_lrelu.filtered_lrelu, (X,), {"gain": -1}, "gain is -1, expected a finite number greater than 0"),
    (filtered_lrelu.filtered_lrelu, (X,), {"slope": -1}, "slope is -1, expected a finite number of at least 0"),
    (conv2d_resample.conv2d_resample, (X, W), {"down": (2, 1)}, "'tuple' object cannot be interpreted as an integer"),
    (fused_act.fused_leaky_relu, (X[0, 0, 0],), {}, "x has shape [4], expected [N, C, *spatial]"),
    (fused_act.fused_leaky_relu, (X, torch.zeros(3)), {}, "bias has shape [3], expected [2] for x of shape"),
    (fused_act.fused_leaky_relu, (X,), {"negative_slope": -1}, "negative_slope is -1, expected a finite number"),
    (fused_act.fused_leaky_relu, (X,), {"scale": 0}, "gain is 0, expected a finite number greater than 0"),
    (fir_of_op.upfirdn2d, (X[0], torch.ones(2, 2)), {}, "x has shape [2, 4, 4], expected [N, C, H, W]"),
    (fir_of_op.upfirdn2d, (X, F), {"pad": (1, 2, 3)}, "padding is [1, 2, 3], expected an integer"),
    (fir_of_op.upfirdn2d, (X, torch.ones(5, 5)), {}, "kernel is [5, 5], expected at most [4, 4]"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "args", "settings", "message"), REFUSED, ids=[r[3] for r in REFUSED])
def test_what_cannot_be_served_is_refused_in_one_line(function, args, settings, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(*args, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
