"""No timing behind a wrong result; cold caches, turns and quartiles, on clocks that do not depend on the machine."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.accuracy import error, tolerance
from benchmarks.cases import Case, cases
from benchmarks.devices import CpuDevice
from benchmarks.measure import TOY, Effort, Quartiles, interleave, measure, slots_for
from benchmarks.ops import OPS
from fastgan_kernels import reference, use_backend

CASES = {case.key: case for case in cases(toy=True)}
CASE = CASES["bias_act/toy/float32/contiguous/forward"]


def with_ops(case: Case, **changed) -> Case:
    return replace(case, op=replace(case.op, **changed))


class DoublesAChannel(torch.autograd.Function):
    """Right forward; the gradient of one channel doubled, to every order."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, dx: Tensor) -> Tensor:
        factor = torch.ones_like(dx)
        factor[:, 1] = 2
        return dx * factor


def wrong_gradient(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(DoublesAChannel.apply(x), bias)


def nan_somewhere(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(x, bias).index_fill(0, torch.tensor([1]), torch.nan)


def one_element_off(x: Tensor, bias: Tensor) -> Tensor:
    y = reference.bias_act(x, bias)
    return y + torch.zeros_like(y).index_put((torch.tensor([-1]),) * 4, torch.tensor(1.0, dtype=y.dtype))


def fewer(x: Tensor, bias: Tensor) -> Tensor:
    return reference.bias_act(x, bias)[:1]


def raises(x: Tensor, bias: Tensor) -> Tensor:
    raise RuntimeError("no kernel for this\nand a long trace")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("fused", "pass_", "reason"),
    [
        (wrong_gradient, "backward", "wrong: error "),
        (wrong_gradient, "double_backward", "wrong: error "),
        (nan_somewhere, "forward", "wrong: error inf"),
        (one_element_off, "forward", "wrong: error "),
        (fewer, "forward", "failed: ValueError: outputs of shapes"),
        (raises, "backward", "failed: RuntimeError: no kernel for this"),
    ],
)
def test_what_is_wrong_is_reported_and_not_timed(fused, pass_: str, reason: str, dtype: str):
    rows, (refusal,) = measure(replace(with_ops(CASE, op=fused), dtype_name=dtype, pass_=pass_), CpuDevice(), TOY)
    assert refusal.implementation == "fused"
    assert refusal.reason.startswith(reason)
    assert "\n" not in refusal.reason
    assert {row["implementation"] for row in rows} == {"eager", "leaky_relu", "copy"}


@pytest.mark.parametrize("name", [key for key in CASES if "float32" in key])
def test_every_implementation_of_every_op_and_pass_is_right_and_timed(name: str):
    """The references stand for the kernels, whose values other tests hold; without a GPU there are no graphs."""
    case = CASES[name]
    rows, refusals = measure(with_ops(case, op=case.op.reference), CpuDevice(), TOY)
    assert refusals == []
    assert {row["implementation"] for row in rows} == {"fused", "eager", "copy", *case.op.torch_functions}
    for row in rows:
        assert float(row["device_us_q1"]) <= float(row["device_us_median"]) <= float(row["device_us_q3"])
        assert "graph_us_median" not in row  # not measured, not zero


def test_a_kernel_in_the_interpreter_is_right():
    with use_backend("triton"):
        rows, refusals = measure(CASES["noise_injection/toy/bfloat16/channels_last/backward"], CpuDevice(), TOY)
    assert refusals == []
    assert "fused" in {row["implementation"] for row in rows}


def test_torch_compile_is_measured_beside_the_fused_op():
    rows, refusals = measure(with_ops(CASE, op=reference.bias_act), CpuDevice(), TOY, compiled=True)
    assert (refusals, {row["implementation"] for row in rows}) == ([], {"fused", "compile", "copy"})


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


def test_differences_below_the_smallest_step_of_a_type_are_no_error():
    """Gradients of a mean over many samples are small: in float16 they are rounded to multiples of 6e-8."""
    exact = torch.linspace(1e-6, 3e-6, 100, dtype=torch.float64)
    assert error((exact.half(),), (exact,)) == 0
    assert error((exact.half() * 0,), (exact,)) > 0.4
    assert error((exact.bfloat16() * 1.1,), (exact,)) > tolerance(torch.bfloat16, 1)


def test_errors_of_zero_missing_and_non_finite_outputs():
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert error((zero,), (zero,)) == 0
    assert error((one,), (zero,)) == error((one / 0 * 0,), (one,)) == float("inf")
    for outputs, expected in (((one,), (one, one)), ((one[:2],), (one,))):
        with pytest.raises(ValueError, match="outputs of shapes"):
            error(outputs, expected)


class RecordingDevice(CpuDevice):
    """A clock that says a second for everything, graphs that replay nothing, and a note of what was timed."""

    cache_bytes = 7000  # a pass of the case moves 2 KB and more: several sets of buffers

    def __init__(self) -> None:
        self.timing = False
        self.read: list[int | None] = []  # by each timed call; the copy reads no operand

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


def test_a_timed_call_has_a_cold_cache():
    device = RecordingDevice()

    def recording(x: Tensor, bias: Tensor) -> Tensor:
        if device.timing:
            device.read[-1] = x.data_ptr()
        return reference.bias_act(x, bias)

    rounds = 20
    effort = replace(TOY, rounds=rounds, seconds=60)
    measure(with_ops(CASE, torch_functions={}, op=recording, reference=recording), device, effort)
    cold = device.read[: 3 * rounds]  # by the two implementations and the copy
    slots = device.captured
    assert slots * CASE.bytes > 3 * device.cache_bytes
    for start in range(len(cold)):
        operands = [read for read in cold[start : start + slots] if read is not None]
        assert len(set(operands)) == len(operands), "a set of buffers came back before the others were through"


def test_an_implementation_that_keeps_much_has_few_buffers():
    """Memory has no room for as many as a small problem needs: eager minibatch discrimination would fill 80 GB."""
    kept, captured = iter((0, 6000)), []

    class Device(RecordingDevice):
        def held_bytes(self, call) -> int:
            return next(kept)

        def capture(self, calls):
            captured.append({call()[0].data_ptr() for call in calls})
            return super().capture(calls)

    same = lambda x, bias: x  # noqa: E731
    measure(with_ops(CASE, torch_functions={}, op=same, reference=same), Device(), TOY)
    fused, eager, _ = captured
    assert [len(fused), len(eager)] == [slots_for(of, Device.cache_bytes) for of in (CASE.bytes, 6000)]
    assert not fused & eager


def test_wall_time_of_a_long_call_is_taken_of_few():
    counts: list[int] = []

    class Device(RecordingDevice):
        def wall(self, calls) -> float:
            counts.append(len(calls))
            return 0.02

    measure(with_ops(CASE, torch_functions={}), Device(), Effort(rounds=1, seconds=0, wall_calls=10))
    assert set(counts) == {1, 2}  # one measures the call, and 50 ms have two


def test_the_time_of_a_graph_is_divided_by_its_calls():
    device = RecordingDevice()
    rows, _ = measure(replace(CASE, pass_="backward"), device, TOY)
    for row in rows:
        assert float(row["graph_us_median"]) == pytest.approx(1e6 / device.captured, rel=1e-3)
        assert float(row["device_us_median"]) == 1e6
        assert row["share_of_copy_graph"] == row["share_of_copy_device"] == "1.0000"
        assert row["peak_bytes"] == 123
        assert row["bytes"] == CASE.op.minimum_bytes(OPS["bias_act"].toy, torch.float32, "backward")


class Clock:
    """Implementations that take what they are given and note when they ran."""

    def __init__(self) -> None:
        self.time = 0.0
        self.order: list[str] = []

    def now(self) -> float:
        return self.time

    def implementation(self, name: str, durations: list[float]):
        remaining = iter(durations)

        def sample() -> float:
            self.order.append(name)
            duration = next(remaining)
            self.time += duration
            return duration

        return sample


def test_every_round_has_every_implementation_and_another_first():
    clock = Clock()
    samplers = {name: clock.implementation(name, [1.0] * 3) for name in "abc"}
    interleave(samplers, rounds=3, seconds=100, now=clock.now)
    assert "".join(clock.order) == "abc" + "bca" + "cab"


def test_medians_and_quartiles_are_those_of_each_implementation():
    clock = Clock()
    samplers = {"a": clock.implementation("a", [5, 1, 2, 4, 300]), "b": clock.implementation("b", [10, 10, 10, 10, 20])}
    figures = interleave(samplers, rounds=5, seconds=1e9, now=clock.now)
    assert figures == {"a": Quartiles(2, 4, 5, samples=5), "b": Quartiles(10, 10, 10, samples=5)}
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0, samples=1)


@pytest.mark.parametrize(("duration", "rounds"), [(10.0, 5), (0.1, 11)])
def test_time_ends_the_rounds_but_never_below_what_quartiles_need(duration: float, rounds: int):
    clock = Clock()
    interleave({"a": clock.implementation("a", [duration] * 99)}, rounds=99, seconds=1, now=clock.now)
    assert len(clock.order) == rounds


@pytest.mark.parametrize(("bytes_moved", "cache"), [(1, 10), (7, 100), (50, 50), (100, 50), (10**9, 50 * 2**20)])
def test_rotation_passes_three_times_the_cache(bytes_moved: int, cache: int):
    slots = slots_for(bytes_moved, cache)
    assert slots >= 2
    assert slots * bytes_moved > 3 * cache
    assert slots == 2 or (slots - 1) * bytes_moved <= 3 * cache  # and not by more than one
