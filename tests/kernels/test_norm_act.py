"""What is particular to norm_act; the rest of its tests are in test_every_op.py."""

import re

import pytest
import torch
from torch import nn

from fastgan_kernels import norm_act, use_backend
from fastgan_kernels.ops.norm_act.tile import NormLaunch
from fastgan_kernels.tiling import norm_tiling
from tests.kernels.harness import derivatives, lay_out, random

ACTIVATIONS = {"linear": nn.Identity(), "relu": nn.ReLU(), "lrelu": nn.LeakyReLU(0.2)}


@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (9, 3, 20, 21)], ids=["registers", "spans"])
@pytest.mark.parametrize(
    ("norm", "act", "training", "momentum"),
    [
        ("batch", "relu", True, 0.1),
        ("batch", "lrelu", True, None),
        ("batch", "lrelu", False, 0.1),
        ("instance", "lrelu", True, 0.3),
        ("instance", "linear", False, 0.1),
    ],
)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_is_torchs_module(shape, norm: str, act: str, training: bool, momentum: float | None, backend: str):
    """Two steps: outputs, gradients of both orders and running statistics, to 1e-10 in float64."""
    cls = nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d
    module = cls(3, momentum=momentum, affine=True, track_running_stats=True).double()
    running = {name: buffer.clone() for name, buffer in module.named_buffers()}
    if norm == "instance":
        del running["num_batches_tracked"]  # torch's module does not count
    weight, bias = random((3,), 1), random((3,), 2)
    module.weight.data, module.bias.data = weight, bias
    module.train(training)
    for step in range(2):
        x = random(shape, 3 + step) * 2 + 1

        def ours(x, weight, bias):
            with use_backend(backend):
                return norm_act(
                    x, weight, bias, norm=norm, training=training, momentum=momentum, act=act, **running
                )  # fmt: skip

        def theirs(x, weight, bias):
            parameters = {"weight": weight, "bias": bias}
            return ACTIVATIONS[act](torch.func.functional_call(module, parameters, (x,)))

        cotangents = [random(t.shape, 5 + i) for i, t in enumerate((x, x, weight, bias))]
        found, expected = (derivatives(f, (x, weight, bias), cotangents) for f in (ours, theirs))
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e, rtol=1e-10, atol=1e-10 * (1 + e.abs().max().item()))
    for name, buffer in running.items():
        torch.testing.assert_close(buffer, module.get_buffer(name), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(9, 2, 7, 9), (5, 2, 65, 70)], ids=["registers", "spans"])
def test_variance_of_values_far_from_zero(layout: str, shape: tuple[int, ...]):
    """With E[x^2] - E[x]^2 in float32, 1e6 - 1e6 would leave nothing of a variance of 1."""
    x = lay_out(random(shape, 0, torch.float32) + 1e3, layout)
    running = torch.zeros(2), torch.zeros(2)
    y = norm_act(x, running_mean=running[0], running_var=running[1], momentum=1.0)
    var, mean = torch.var_mean(x.double(), (0, 2, 3))
    # The mean is rounded near 1e3, by 3e-5 and a few times that.
    torch.testing.assert_close(running[0].double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(running[1].double(), var, rtol=1e-5, atol=0)
    torch.testing.assert_close(y.double().std((0, 2, 3)), torch.ones(2).double(), rtol=1e-3, atol=0)


def test_a_constant_channel_in_spans_has_a_variance_of_zero():
    """Rounding of the moments must not leave it below: with an eps of 0 the result would be NaN."""
    x = torch.full((9, 1, 40, 50), 0.1)
    running = torch.zeros(1), torch.zeros(1)
    norm_act(x, running_mean=running[0], running_var=running[1], momentum=1.0)
    assert 0 <= running[1].item() < 1e-12


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_few_values_are_as_torch_has_them(norm: str, backend: str):
    module = (nn.BatchNorm2d if norm == "batch" else nn.InstanceNorm2d)(3)
    with use_backend(backend):
        for shape in ((1, 3, 1, 1), (4, 3, 1, 1)):
            x = random(shape, 0, torch.float32)
            if norm == "batch" and shape[0] > 1:
                torch.testing.assert_close(norm_act(x, norm=norm), module(x), rtol=1e-5, atol=1e-5)
                continue
            for function in (module, lambda x: norm_act(x, norm=norm)):
                with pytest.raises(
                    ValueError, match=rf"^Expected more than 1 .* got input size {re.escape(str(x.shape))}"
                ):
                    function(x)
        running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
        y = norm_act(torch.zeros(1, 3, 1, 1), norm=norm, training=False, **running)
        assert torch.equal(y, torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_an_empty_batch_is_counted_and_moves_nothing(backend: str):
    module = nn.BatchNorm2d(3)
    running = {name: buffer.clone() for name, buffer in module.named_buffers()}
    for momentum in (0.1, None):
        with use_backend(backend):
            assert norm_act(torch.zeros(0, 3, 4, 4), momentum=momentum, **running).shape == (0, 3, 4, 4)
        module(torch.zeros(0, 3, 4, 4))
        for name, buffer in running.items():
            assert torch.equal(buffer, module.get_buffer(name))


def test_types_of_parameters_and_statistics_are_their_own():
    x, weight = random((4, 3, 5, 5), 0, torch.bfloat16), random((3,), 1, torch.float32)
    running = torch.zeros(3), torch.ones(3, dtype=torch.float16)
    y = norm_act(x, weight, running_mean=running[0], running_var=running[1])
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(running[0], 0.1 * x.float().mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(running[1].float(), 0.9 + 0.1 * x.float().var((0, 2, 3)), rtol=2e-3, atol=0)


def test_autograd_notices_that_running_statistics_change():
    running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    x = random((4, 3, 5), 0, torch.float32).requires_grad_()
    y = norm_act(x, training=False, **running)
    norm_act(x, **running)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_a_compiled_region_moves_the_running_statistics(backend: str):
    x = random((4, 3, 5, 5), 0, torch.float32)
    results = []
    for compiled in (False, True):
        running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
        running["num_batches_tracked"] = torch.tensor(2)
        function = torch.compile(norm_act, fullgraph=True, backend="aot_eager") if compiled else norm_act
        with use_backend(backend):
            results.append([function(x, **running), *running.values()])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("layout", "training"), [("contiguous", True), ("channels_last", True), ("contiguous", False)])
def test_scales_of_each_sample_in_spans(layout: str, training: bool):
    x = lay_out(random((9, 3, 20, 21), 0), layout)
    inputs = x, random((9, 3), 1), random((9, 3), 2)
    settings = {"running_mean": random((3,), 3), "running_var": random((3,), 4).abs(), "training": training}

    def f(*inputs: torch.Tensor) -> torch.Tensor:
        running = {name: value.clone() if name != "training" else value for name, value in settings.items()}
        return norm_act(*inputs, act="lrelu", **running)

    cotangents = [random(t.shape, 5 + i) for i, t in enumerate((x, *inputs))]
    found = derivatives(f, inputs, cotangents)
    with use_backend("reference"):
        expected = derivatives(f, inputs, cotangents)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10 * e.abs().max().item())


def test_one_of_scale_and_shift_for_each_sample():
    x, weight, bias = (random(shape, i) for i, shape in enumerate([(4, 3, 5, 5), (4, 3), (3,)]))
    torch.testing.assert_close(norm_act(x, weight, bias), norm_act(x, weight, bias.expand(4, 3)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3)}, r"x has shape \[3\]"),
        ({"weight": torch.zeros(4)}, r"weight has shape \[4\], expected \[3\] for x of shape \[2, 3, 4, 4\]"),
        ({"bias": torch.zeros(1, 3)}, r"bias has shape \[1, 3\], expected \[2, 3\]"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "x is torch.int64"),
        ({"norm": "layer"}, "norm is 'layer', expected 'batch' or 'instance'"),
        ({"running_mean": torch.zeros(3)}, "only one of running_mean and running_var is given"),
        ({"running_mean": torch.zeros(2), "running_var": torch.zeros(2)}, r"running_mean has shape \[2\]"),
        (
            {"running_mean": torch.zeros(3), "running_var": torch.ones(3), "momentum": None},
            "momentum is None without num_batches_tracked",
        ),
        ({"act": "tanh"}, "act is 'tanh'"),
        ({"eps": -1e-5}, "eps is -1e-05"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_bad_input_is_refused_in_one_sentence(arguments: dict, message: str, backend: str):
    with use_backend(backend), pytest.raises((ValueError, TypeError), match=message):
        norm_act(**{"x": torch.zeros(2, 3, 4, 4), **arguments})


def test_pixels_of_neighboring_samples_are_one_row_in_channels_last():
    def extents(*, is_contiguous: bool = False, per_sample: bool = False, groups: int = 1) -> tuple[int, int, int]:
        shape = torch.Size((6, 32, 7, 7))
        settings = False, 0, "linear", "linear", 0.2, 1e-5, True, 2, False
        return NormLaunch(shape, is_contiguous, torch.float32, groups, per_sample, *settings).extents

    # Samples, channels by 16, pixels; contiguous: samples, pixels, channels.
    assert extents() == (1, 2, 6 * 49)
    assert extents(per_sample=True) == (6, 2, 49)
    assert extents(groups=6) == (1, 2, 49)
    assert extents(is_contiguous=True) == (6, 49, 32)


@pytest.mark.parametrize("is_contiguous", [True, False])
@pytest.mark.parametrize(
    ("dtype", "wide", "align"), [(torch.bfloat16, True, 4), (torch.bfloat16, False, 16), (torch.float64, True, 2)]
)
def test_accesses_beside_a_wide_gradient_are_as_wide_as_its_stores(
    is_contiguous: bool, dtype: torch.dtype, wide: bool, align: int
):
    settings = 1, False, False, 0, "linear", "linear", 0.2, 1e-5, False, 2
    launch = NormLaunch(torch.Size((2, 16, 4, 4)), is_contiguous, dtype, *settings, wide)
    assert launch.constants["ALIGN"] == align


@pytest.mark.parametrize(
    ("samples", "channels", "pixels", "programs", "spans"),
    [
        (64, 1024, 16, 512, 1),  # two channels a tile
        (64, 256, 256, 256, 1),  # the registers of 16 warps
        (64, 128, 1024, 128, 4),  # cut in spans: 512 programs, which all run at once
        (1, 64, 65536, 64, 8),
    ],
)
def test_channels_of_generators(samples: int, channels: int, pixels: int, programs: int, spans: int):
    tiling = norm_tiling(1, samples, channels, pixels, 4, channels_last=False, reduces=True)
    assert tiling.grid == (programs, spans)
    assert tiling.resident == (spans == 1)
