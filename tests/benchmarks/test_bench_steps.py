"""Whole steps: all providers compute the same, a wrong one is not timed, and their time is told by kind."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from benchmarks.aims import LOOP_AIMS
from benchmarks.breakdown import kind_of, summed
from benchmarks.devices import CpuDevice
from benchmarks.limits import OP as LIMIT
from benchmarks.measure import TOY
from benchmarks.plots import parse_parts
from benchmarks.steps import STEPS, critics
from benchmarks.steps.measure import error, measure_step, render
from benchmarks.steps.networks import stylegan_discriminator
from benchmarks.steps.presets import JUDGED_SIZES
from benchmarks.steps.step import StepCase, step_cases
from benchmarks.suite import suite
from fastgan.training.config import preset_names
from fastgan_kernels import use_backend

_CPU = torch.device("cpu")
_TOY = {case.step.name + "/" + case.step.pass_: case for case in step_cases(STEPS, toy=True)}
_WGAN_GP = _TOY["wgan_gp_step/step"]


@pytest.mark.parametrize("name", [name for name, case in _TOY.items() if case.step.exact])
def test_in_float64_fused_is_what_plain_torch_computes(name: str):
    """Also at later calls: of spectral norms each call iterates once."""
    case = _TOY[name]
    setting = case.setting(_CPU, "eager", dtype_name="float64")
    with use_backend("reference"):
        fused, eager = (case.step.providers[provider](setting) for provider in ("fused", "eager"))
        for _ in range(2):
            assert error(fused(), tuple(t.detach() for t in eager())) < 1e-12


def _with_fused(build) -> StepCase:
    return replace(_WGAN_GP, step=replace(_WGAN_GP.step, providers={"fused": build, "eager": _eager}))


_eager = _WGAN_GP.step.providers["eager"]


def _forgets_the_penalty(setting):
    def loss(critic, images):
        return critic(images.fake).mean() - critic(images.real).mean()

    return critics._providers(loss, loss, {"toy_critic": critics.dcgan28_critic})["eager"](setting)


def _one_gradient_off(setting):
    call = _eager(setting)
    return lambda: (*(outputs := call())[:-2], outputs[-2] * 1.001, outputs[-1])


def _raises(setting):
    raise RuntimeError("no kernel for this\nand a long trace")


@pytest.mark.parametrize(
    ("build", "dtype", "kind"),
    [
        (_one_gradient_off, "float32", "wrong"),
        (_forgets_the_penalty, "float32", "wrong"),
        (_forgets_the_penalty, "bfloat16", "wrong"),
        (_raises, "float32", "failed"),
    ],
)
def test_a_wrong_provider_is_reported_and_not_timed(build, dtype: str, kind: str):
    rows, refusals = measure_step(replace(_with_fused(build), dtype_name=dtype), CpuDevice(), TOY)
    assert [(refusal.provider, refusal.kind) for refusal in refusals] == [("fused", kind)]
    assert [row["provider"] for row in rows] == ["eager"]


@pytest.mark.parametrize(("off", "kind"), [(1e-5, None), (1e-2, "wrong")])
def test_an_inexact_step_is_held_to_half_the_digits_however_well_eager_agrees_with_itself(off: float, kind: str | None):
    """A convolution's gradient that adds up in any order leaves eager torch a tiny error, which bounds nothing."""
    calls = iter(range(9))

    def eager(setting):
        noise = 1e-8 * next(calls)
        return lambda: (torch.tensor([1.0 + noise], dtype=torch.float64),)

    def fused(setting):
        return lambda: (torch.tensor([1.0 + off]),)

    step = replace(_WGAN_GP.step, exact=False, providers={"fused": fused, "eager": eager})
    _, refusals = measure_step(replace(_WGAN_GP, step=step), CpuDevice(), TOY)
    assert [refusal.kind for refusal in refusals] == [kind] * (kind is not None)


def test_a_reference_of_zeros_is_no_reference():
    with pytest.raises(ValueError, match="nothing to compare"):
        error((torch.ones(2),), (torch.zeros(2, dtype=torch.float64),))


def test_a_profiler_that_saw_no_kernel_has_not_counted_launches():
    assert summed([], 3, on_gpu=True).launches is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_right_provider_is_timed_and_its_time_taken_apart(dtype: str):
    with use_backend("reference"):
        case = replace(_with_fused(_WGAN_GP.step.providers["fused"]), dtype_name=dtype)
        rows, refusals = measure_step(case, CpuDevice(), TOY)
    assert refusals == []
    assert [row["provider"] for row in rows] == ["fused", "eager"]
    for row in rows:
        parts = parse_parts({name: str(value) for name, value in row.items()})
        assert parts["convolution"] > 0
        assert float(str(row["wall_us_median"])) > 0
        # Not measured on a CPU, and nothing of a step with a cold cache.
        assert not {"launches", "graph_us_median", "cold_us_median", "bytes", "peak_bytes"} & row.keys()


def test_errors_are_in_norm_and_what_cancels_counts_for_little():
    large, zero = torch.full((4,), 10.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert error((large, zero), (large, zero)) == 0
    assert error((large * 1.01, zero), (large, zero)) == pytest.approx(0.01)
    # Of the norm 20 a thousandth is 0.02.
    assert error((large, zero + torch.tensor([3e-4, 4e-4])), (large, zero)) == pytest.approx(5e-4 / 0.02)
    assert error((large * torch.nan, zero), (large, zero)) == float("inf")


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_s1688wgrad_optimized>", "convolution"),
        ("nvjet_tst_128x256_64x4_2x1_v_bz_gemm", "matrix product"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float>", "normalisation"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("triton_poi_fused_leaky_relu_0", "compiled"),
        ("_derivative_kernel", "fastgan"),
        ("void at::native::vectorized_elementwise_kernel<4, AddFunctor>", "other"),
    ],
)
def test_kernels_are_told_apart_by_their_names(kernel: str, kind: str):
    assert kind_of(kernel) == kind


def test_kernels_are_summed_by_kind_and_what_holds_them_is_not_counted_again():
    def event(name: str, start: int, end: int, device: DeviceType = DeviceType.CUDA, **rest: bool) -> FunctionEvent:
        return FunctionEvent(0, name, 0, start, end, device_type=device, use_device="cuda", **rest)

    of_a_call = [
        event("aten::add", 0, 90, DeviceType.CPU),
        event("vectorized_elementwise_kernel", 10, 14),
        event("_derivative_kernel", 20, 22),
        event("_derivative_kernel", 30, 34),
        event("Memcpy DtoD (Device -> Device)", 40, 41),
        event("Optimizer.step#Adam.step", 0, 60, is_user_annotation=True),
    ]
    found = summed(of_a_call * 3, 3, on_gpu=True)
    assert list(found.seconds) == ["fastgan", "other", "copies"]
    assert list(found.seconds.values()) == pytest.approx([6e-6, 4e-6, 1e-6])
    assert found.launches == 4


def test_parts_are_read_back_as_they_were_written():
    parts = {"matrix product": 12.3, "fastgan": 4.5}
    assert parse_parts({"parts_us": render(parts)}) == parts


def test_the_suite_has_each_case_once_limits_first_and_every_preset():
    for toy in (False, True):
        listed = suite(toy=toy)
        assert max(Counter(case.key for case in listed).values()) == 1
        ops = [case.subject["op"] for case in listed]
        assert set(ops[: ops.index("wgan_gp_step")]) == {LIMIT}
        for preset in preset_names():
            assert {f"train:{preset}", f"sample:{preset}"} <= set(ops)
            assert ops.index("bias_act") < ops.index(f"sample:{preset}")
        # A run that is cut off has the training by which the engine is judged, and the ops before the small presets.
        problems = [case.subject["problem"].removeprefix("toy_") for case in listed]
        for size in JUDGED_SIZES:
            assert problems.index(size.name) < ops.index("bias_act")


def test_the_sizes_that_have_an_aim_are_those_that_are_measured():
    assert LOOP_AIMS.keys() == {size.name for size in JUDGED_SIZES}


@pytest.mark.parametrize(("size", "width", "parameters"), [(8, 2, 571), (64, 16, 2_229_777)])
def test_the_discriminator_has_the_layers_that_it_says(size: int, width: int, parameters: int):
    network = stylegan_discriminator(3, size, width)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network(torch.zeros(4, 3, size, size)).shape == (4,)
