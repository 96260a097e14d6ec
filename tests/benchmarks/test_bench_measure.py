"""No timing behind a wrong result."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.accuracy import error, tolerance
from benchmarks.devices import CpuDevice
from benchmarks.measure import TOY, measure
from benchmarks.old_ops import OPS
from benchmarks.passes import bind, compiled_binder, draw
from benchmarks.registry import Case, cases
from fastgan_kernels import reference

_BIAS_ACT = OPS[0]
_TOY = {case.key: case for case in cases(OPS, toy=True)}
_ODD = _TOY["bias_act/toy_odd/bfloat16/channels_last/forward"]


def _with_fused(case: Case, fused) -> Case:
    return replace(case, op=replace(case.op, fused=fused))


class _DoublesAChannel(torch.autograd.Function):
    """Right forward; the gradient of one channel doubled, to every order."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, dx: Tensor) -> Tensor:
        factor = torch.ones_like(dx)
        factor[:, 1] = 2
        return dx * factor


def _drops_the_bias(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(x, bias * 0)


def _wrong_gradient(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(_DoublesAChannel.apply(x), bias)


def _nan_somewhere(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(x, bias).index_fill(0, torch.tensor([1]), torch.nan)


def _raises(x: Tensor, bias: Tensor) -> Tensor:
    raise RuntimeError("no kernel for this\nand a long trace")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("fused", "pass_", "kind"),
    [
        (_drops_the_bias, "forward", "wrong"),
        (_wrong_gradient, "backward", "wrong"),
        (_wrong_gradient, "double_backward", "wrong"),
        (_nan_somewhere, "forward", "wrong"),
        (_raises, "backward", "failed"),
    ],
)
def test_a_wrong_provider_is_reported_and_not_timed(fused, pass_: str, kind: str, dtype: str):
    odd = replace(_ODD, dtype_name=dtype, pass_=pass_)
    case = _with_fused(odd, fused)
    rows, refusals = measure(case, CpuDevice(), TOY)
    assert [(refusal.provider, refusal.kind) for refusal in refusals] == [("fused", kind)]
    assert {row["provider"] for row in rows} == {"eager", "vendor:leaky_relu", "clone"}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_the_planted_element_is_refused_and_the_right_providers_are_timed(op):
    case = _TOY[f"{op.name}/toy_4/float32/contiguous/forward"]
    rows, refusals = measure(_with_fused(case, op.reference), CpuDevice(), TOY, plant=True)
    assert [refusal.provider for refusal in refusals] == ["planted"]
    assert {row["provider"] for row in rows} == {
        "fused",
        "eager",
        "compile",
        "clone",
        *(f"vendor:{v}" for v in op.vendors),
    }
    for row in rows:
        assert float(row["cold_us_q1"]) <= float(row["cold_us_median"]) <= float(row["cold_us_q3"])
        assert "graph_us_median" not in row  # a CPU has none: not measured, not zero


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_tolerance_stands_between_rounding_and_a_mistake(dtype: torch.dtype):
    """Rounding passes by a factor, after a chain of separate operations as well; one wrong element of many does not."""
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 4, 8, 64, 64).to(dtype).double()
    exact = a * b + c
    allowed = tolerance(dtype, reduction=1)
    assert error((exact.to(dtype),), (exact,)) < allowed / 2
    assert error((a.to(dtype) * b.to(dtype) + c.to(dtype),), (exact,)) < allowed
    wrong = exact.to(dtype)
    wrong[2, 3, 4, 5] += 1
    assert error((wrong,), (exact,)) > 3 * allowed
    # A bias of the rounding itself, as where a store truncates an already truncated sum: too small for any element.
    assert error((exact.to(dtype) * (1 + 3 * torch.finfo(dtype).eps),), (exact,)) > allowed or dtype == torch.float32


def test_errors_of_zero_missing_and_non_finite_outputs():
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert error((zero,), (zero,)) == 0
    assert error((one,), (zero,)) == float("inf")
    assert not error((one / 0 * 0,), (one,)) < 1e9
    with pytest.raises(ValueError, match="1 outputs, expected 2"):
        error((one,), (one, one))
    with pytest.raises(ValueError, match="shape"):
        error((one[:2],), (one,))


@pytest.mark.parametrize(("op", "pass_"), [pytest.param(op, p, id=f"{op.name}-{p}") for op in OPS for p in op.passes])
def test_the_compiled_form_computes_the_same_pass(op, pass_: str):
    """Second order above all: it is another formulation than that of the other providers."""
    case = _TOY[f"{op.name}/toy_4/float32/contiguous/{pass_}"]
    operands = draw(case, torch.device("cpu"))
    expected = bind(op.reference, op, pass_, operands.to(torch.float32))()
    torch._dynamo.reset()
    outputs = compiled_binder(op, pass_, TOY.compile_backend)(operands.to(torch.float32))()
    assert len(outputs) == len(expected)
    for output, other in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, other)


class _RecordingDevice(CpuDevice):
    """A clock that says a second for everything, graphs that replay nothing, and a note of what was timed."""

    cache_bytes = 1500  # a pass of the case below moves 226 bytes and more: several sets of buffers

    def __init__(self) -> None:
        self.timing = False
        self.read: list[int | None] = []  # by each timed call; the clone reads no operand

    def timed(self, call, host_seconds: float) -> float:
        self.timing = True
        self.read.append(None)
        call()
        self.timing = False
        return 1.0

    def capture(self, calls):
        self.captured = len(calls)
        return lambda: None

    def peak_bytes(self, call) -> int:
        return 123


def test_a_timed_call_with_a_cold_cache_finds_operands_that_nobody_has_touched_for_long():
    device = _RecordingDevice()

    def recording(function):
        def call(x: Tensor, bias: Tensor) -> Tensor:
            if device.timing:
                device.read[-1] = x.data_ptr()
            return function(x, bias)

        return call

    op = replace(_BIAS_ACT, vendors={}, fused=recording(reference.bias_act), reference=recording(reference.bias_act))
    case = replace(_ODD, dtype_name="float32", layout="contiguous", op=op)
    rounds = 20
    measure(case, device, replace(TOY, rounds=rounds, seconds=60))
    cold = device.read[: 3 * rounds]  # by the two providers and the clone
    slots = device.captured
    assert slots * case.bytes > 3 * device.cache_bytes
    for start in range(len(cold)):
        operands = [read for read in cold[start : start + slots] if read is not None]
        assert len(set(operands)) == len(operands), "a set of buffers came back before the others were through"


class _CountingDevice(_RecordingDevice):
    """Memory as torch counts it on a GPU: what a call keeps, which here is what the reference saves, on purpose."""

    def held_bytes(self, call) -> int:
        kept = call()
        (y, *_) = kept[1]
        return 600 if "Saves" in type(y.grad_fn).__name__ else 0


class _Saves(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, dx: Tensor) -> Tensor:
        return dx


def test_what_keeps_much_has_few_sets_of_buffers_of_its_own():
    """Memory has no room for as many as a small problem needs: eager minibatch discrimination would fill 80 GB."""
    device = _CountingDevice()
    seen: dict[str, set[int]] = {"fused": set(), "eager": set()}

    def recording(name, function):
        def call(x: Tensor, bias: Tensor) -> Tensor:
            if device.timing:
                seen[name].add(x.data_ptr())
            return function(x, bias)

        return call

    def saving(x: Tensor, bias: Tensor) -> Tensor:
        return _Saves.apply(reference.bias_act(x, bias))

    fused, eager = recording("fused", reference.bias_act), recording("eager", saving)
    case = replace(_ODD, dtype_name="float32", layout="contiguous")
    case = replace(case, op=replace(_BIAS_ACT, vendors={}, fused=fused, reference=eager))
    measure(case, device, replace(TOY, rounds=60, seconds=60))
    many, few = 3 * device.cache_bytes // case.bytes + 1, 3 * device.cache_bytes // 600 + 1
    assert (len(seen["fused"]), len(seen["eager"])) == (many, few)
    assert not seen["fused"] & seen["eager"]


def test_wall_time_of_a_long_call_is_taken_of_few():
    class Device(_RecordingDevice):
        def timed(self, call, host_seconds: float) -> float:
            return 0.02

        def wall(self, calls) -> float:
            counts.append(len(calls))
            return 1.0

    counts: list[int] = []
    measure(replace(_ODD, dtype_name="float32"), Device(), replace(TOY, wall_calls=10))
    assert set(counts) == {2}  # 50 ms


def test_a_replayed_graph_is_charged_per_call_and_compared_with_the_clones():
    device = _RecordingDevice()
    rows, _ = measure(replace(_ODD, dtype_name="float32", pass_="backward"), device, TOY)
    for row in rows:
        assert float(row["graph_us_median"]) == pytest.approx(1e6 / device.captured, rel=1e-3)
        assert float(row["cold_us_median"]) == 1e6
        assert row["share_of_clone_graph"] == row["share_of_clone_cold"] == "1.0000"
        assert row["peak_bytes"] == 123
