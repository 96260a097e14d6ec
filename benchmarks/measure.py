"""One case: check every provider, then time those that are right, side by side."""

import gc
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.accuracy import SEPARATE_OPS, error, tolerance
from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.passes import Binder, Call, Operands, Outputs, bind, compiled_binder, draw, outputs_of
from benchmarks.registry import Case
from benchmarks.results import MODES
from benchmarks.timing import Quartiles, interleave, slots_for

CLONE = "clone"
_WALL_SECONDS = 0.05  # of calls in a row for one sample; the synchronisation at their end takes some microseconds


@dataclass(frozen=True)
class Effort:
    """How much is measured: samples a mode, seconds a mode after which fewer are enough, the most calls in a sample of
    wall time, torch.compile's backend."""

    rounds: int = 25
    seconds: float = 0.4
    wall_calls: int = 10
    compile_backend: str = "inductor"


TOY = Effort(rounds=1, seconds=0.0, wall_calls=1, compile_backend="aot_eager")


@dataclass(frozen=True)
class Refusal:
    """Why a provider was not timed: its result is wrong, it failed, or it cannot be on this machine."""

    provider: str
    kind: str  # "wrong" | "failed" | "refused"
    reason: str


def binders(case: Case, compile_backend: str) -> dict[str, Binder]:
    """The providers of a case by name."""
    op = case.op
    functions = {"fused": op.fused, "eager": op.reference, **{f"vendor:{k}": v for k, v in op.vendors.items()}}
    named: dict[str, Binder] = {name: partial(bind, f, op, case.pass_) for name, f in functions.items()}
    if case.compiled:
        named["compile"] = compiled_binder(op, case.pass_, compile_backend)
    return named


def planted(case: Case) -> Binder:
    """A provider with a single wrong element, which the check must refuse."""

    def wrong(*operands: Tensor) -> Outputs:
        y, *others = outputs_of(case.op.reference, *operands)
        y = y.detach().clone(memory_format=torch.contiguous_format)
        y.view(-1)[-1] += 1
        return y, *others

    return partial(bind, wrong, case.op, "forward")


def check(case: Case, named: dict[str, Binder], operands: Operands, device: CpuDevice | CudaDevice) -> list[Refusal]:
    """Compares every provider with the float64 reference."""
    expected = bind(case.op.reference, case.op, case.pass_, operands.to(torch.float64))()
    expected = tuple(t.detach() for t in expected)
    refusals = []
    for name, binder in named.items():
        # Freed memory is handed out again: an element that is not written shows as NaN, not as a former result.
        _ = [torch.full_like(t, torch.nan, dtype=case.dtype) for t in expected]
        del _
        try:
            # Each gets operands of its own: there are ops that work in place.
            found = error(binder(operands.to(case.dtype))(), expected)
        except Exception as failure:
            device.synchronize()  # after a fault of the device nothing works: this raises again
            refusals.append(refused(name, failure))
            continue
        roundings = case.op.vendor_roundings if name.startswith("vendor:") else SEPARATE_OPS
        allowed = tolerance(case.dtype, case.work.reduction, roundings)
        if not found <= allowed:
            refusals.append(Refusal(name, "wrong", f"error {found:.2g}, rounding explains {allowed:.2g}"))
    return refusals


def measure(
    case: Case, device: CpuDevice | CudaDevice, effort: Effort, *, plant: bool = False
) -> tuple[list[dict[str, object]], list[Refusal]]:
    """Returns the rows of a case (without the identity of the machine) and the providers that were refused."""
    torch._dynamo.reset()  # each case compiles for itself; on disk its kernels are cached
    torch.manual_seed(zlib.crc32(case.key.encode()))
    named = binders(case, effort.compile_backend)
    if plant:
        named["planted"] = planted(case)
    operands = draw(case, device.torch_device)
    refusals = check(case, named, operands, device)
    for refusal in refusals:
        del named[refusal.provider]

    slots = [operands, *(draw(case, device.torch_device) for _ in range(1, slots_for(case.bytes, device.cache_bytes)))]
    calls = {name: _calls(binder, case, slots, device) for name, binder in named.items()}
    calls[CLONE] = [_clone(case, device) for _ in slots]
    figures = time_calls(calls, device, effort, MODES)
    work = {"bytes": case.bytes, "operations": case.work.operations}
    return [
        {**case.subject, "provider": name, **work, **cells(figures, name, case.bytes), **peak_of(of_slots[0], device)}
        for name, of_slots in calls.items()
    ], refusals


def _calls(binder: Binder, case: Case, slots: Sequence[Operands], device: CpuDevice | CudaDevice) -> list[Call]:
    """The same call on as many sets of buffers as it takes to find none of them in cache.

    What keeps more than the problem's bytes needs fewer, and memory has no room for all: plain torch keeps 40 MB of
    each minibatch discrimination of 128 samples, whose floor is 0.3 MB. These few are its own, so that no provider
    comes back to one that another has just read.
    """

    def bound() -> tuple[Call, Outputs]:
        call = binder(slots[0])
        return call, call()

    needed = slots_for(max(case.bytes, device.held_bytes(bound)), device.cache_bytes)
    if needed < len(slots):
        slots = [draw(case, device.torch_device) for _ in range(needed)]
    return [binder(operands) for operands in slots]


def _clone(case: Case, device: CpuDevice | CudaDevice) -> Call:
    # Half the bytes are read and half are written.
    source = torch.randn(max(1, case.bytes // 2 // case.dtype.itemsize), dtype=case.dtype, device=device.torch_device)
    return lambda: (source.clone(),)


def time_calls(
    calls: dict[str, list[Call]], device: CpuDevice | CudaDevice, effort: Effort, modes: Sequence[str]
) -> dict[str, dict[str, Quartiles]]:
    """Seconds a call: for each mode, for each provider.

    Args:
        calls: for each provider the same call on different buffers, as many as it takes to find none in cache; equal
            numbers of them may share their buffers.
        modes: of those in ``MODES``; a provider that cannot be captured is missing from ``graph``.
    """
    for of_slots in calls.values():
        for call in of_slots:
            call()
    graphs = {}
    if "graph" in modes:
        captured = ((name, device.capture(of_slots)) for name, of_slots in calls.items())
        graphs = {name: graph for name, graph in captured if graph is not None}
    # Where wall times are all that is asked for, one call tells how many make a sample.
    alone = {name: device.wall(of_slots[:1]) for name, of_slots in calls.items()} if tuple(modes) == ("wall",) else {}
    timed = {} if alone else calls
    host = {name: min(device.host_seconds(of_slots[0]) for _ in range(3)) for name, of_slots in timed.items()}
    # A graph of a thousand launches keeps the host busy for longer than a launch does.
    host_of_graph = {name: min(device.host_seconds(replay) for _ in range(3)) for name, replay in graphs.items()}

    # One cursor for all providers: they share the operands, and none may find what another has just read.
    cursor = itertools.count()
    held: dict[tuple[str, int], object] = {}

    def cold(name: str) -> float:
        slot = next(cursor) % len(calls[name])

        def call() -> None:
            # The outputs rotate as well: a block that was just freed would still be in cache.
            held[name, slot] = calls[name][slot]()

        return device.timed(call, host[name])

    def warm(name: str) -> float:
        calls[name][0]()
        return device.timed(calls[name][0], host[name])

    def graph(name: str) -> float:
        return device.timed(graphs[name], host_of_graph[name]) / len(calls[name])

    def wall(name: str) -> float:
        of_slots, of_call = calls[name], next(iter(figures.values()))[name].median if figures else alone[name]
        count = max(1, min(effort.wall_calls, int(_WALL_SECONDS / of_call)))
        return device.wall([of_slots[next(cursor) % len(of_slots)] for _ in range(count)])

    samplers: dict[str, Callable[[str], float]] = {"cold": cold, "warm": warm, "graph": graph, "wall": wall}
    figures: dict[str, dict[str, Quartiles]] = {}
    gc.disable()
    try:
        for mode in modes:
            names = graphs if mode == "graph" else calls
            sample = {name: partial(samplers[mode], name) for name in names}
            figures[mode] = interleave(sample, rounds=effort.rounds, seconds=effort.seconds)
            held.clear()
    finally:
        gc.enable()
    return figures


def cells(figures: dict[str, dict[str, Quartiles]], name: str, bytes_: int | None = None) -> dict[str, object]:
    """A provider's figures as cells of a row: times in microseconds, shares of the clone if one was timed beside it.

    Args:
        bytes_: what the call must move at least, for a bandwidth.
    """
    row: dict[str, object] = {}
    for mode, by_name in figures.items():
        if (q := by_name.get(name)) is None:
            continue
        row |= {f"{mode}_us_{part}": f"{getattr(q, part) * 1e6:.3f}" for part in ("q1", "median", "q3")}
        row[f"{mode}_samples"] = q.samples
        if mode in ("cold", "graph") and CLONE in by_name:
            row[f"share_of_clone_{mode}"] = f"{by_name[CLONE].median / q.median:.4f}"
        if mode == "cold" and bytes_:
            row["gb_per_s"] = f"{bytes_ / q.median / 1e9:.1f}"
    return row


def peak_of(call: Call, device: CpuDevice | CudaDevice) -> dict[str, object]:
    """The cell of the most memory that a call holds; none where nobody counts."""
    peak = device.peak_bytes(call)
    return {} if peak is None else {"peak_bytes": peak}


def refused(name: str, failure: Exception) -> Refusal:
    """A provider that failed."""
    return Refusal(name, "failed", f"{type(failure).__name__}: {_first_line(failure)}")


def _first_line(failure: Exception) -> str:
    return (str(failure).strip().splitlines() or ["no message"])[0][:200]
