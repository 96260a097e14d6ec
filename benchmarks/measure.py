"""One case: check every implementation, then time those that are right, side by side."""

import gc
import itertools
import statistics
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy import error, tolerance
from benchmarks.cases import Call, Case, Given, Implementation, bind, draw, implementations
from benchmarks.devices import CpuDevice, CudaDevice

COPY = "copy"
MODES = ("device", "graph", "wall")

Device = CpuDevice | CudaDevice
Row = Mapping[str, object]

_MIN_ROUNDS = 5  # below that, quartiles say nothing
_WALL_SECONDS = 0.05  # calls of one wall-time sample; long, since the synchronization after them takes microseconds


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: samples per implementation and mode.
        seconds: a mode that has taken as long ends after ``_MIN_ROUNDS`` samples.
        wall_calls: the most calls in one sample of wall time.
        compile_backend: the backend of torch.compile.
    """

    rounds: int = 25
    seconds: float = 0.3
    wall_calls: int = 10
    compile_backend: str = "inductor"


TOY = Effort(rounds=1, seconds=0.0, wall_calls=1, compile_backend="aot_eager")


@dataclass(frozen=True)
class Refusal:
    """Why an implementation was not timed: its result is wrong, or it failed."""

    implementation: str
    reason: str


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median and upper quartile of some samples, in seconds."""

    q1: float
    median: float
    q3: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> "Quartiles":
        if len(samples) == 1:
            return cls(*samples * 3, samples=1)
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"), samples=len(samples))


def without_tf32() -> None:
    """Makes convolutions and products compute in float32: TF32 would be faster, with relative errors up to 5e-4."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def seed(case: Case) -> None:
    torch.manual_seed(zlib.crc32(case.key.encode()))


def check(case: Case, named: Mapping[str, Implementation], given: Given, device: Device) -> list[Refusal]:
    """Compares every implementation with the float64 reference."""
    expected = [t.detach() for t in bind(case.op.reference, case, given.to(torch.float64))()]
    refusals = []
    for name, implementation in named.items():
        # Filled with NaN and freed, memory becomes the outputs: an element that is not written is NaN.
        _ = [torch.full_like(t, torch.nan, dtype=case.dtype) for t in expected]
        del _
        own = name in ("fused", "eager", "compile")
        allowed = tolerance(case.dtype, case.op.reduction(case.problem.shape), 4 if own else case.op.roundings)
        # Each implementation gets its own operands, since some ops work in place.
        refusals += compared(name, partial(implementation, given.to(case.dtype)), expected, allowed, error, device)
    return refusals


def compared(
    name: str,
    make: Callable[[], Call],
    expected: Sequence[Tensor],
    allowed: float,
    error: Callable[[Sequence[Tensor], Sequence[Tensor]], float],
    device: Device,
) -> list[Refusal]:
    """Makes a call and runs it once; refuses it if it fails or its error is more than ``allowed``."""
    try:
        found = error(make()(), expected)
    except Exception as failure:
        device.synchronize()  # raises again after a fault of the device, when nothing works any more
        first_line = (str(failure).strip().splitlines() or ["no message"])[0]
        return [Refusal(name, f"failed: {type(failure).__name__}: {first_line[:200]}")]
    if not found <= allowed:
        return [Refusal(name, f"wrong: error {found:.2g}, rounding explains {allowed:.2g}")]
    return []


def measure(case: Case, device: Device, effort: Effort, *, compiled: bool = False) -> tuple[list[Row], list[Refusal]]:
    """The rows of a case (without the identity of the machine), and the implementations that were refused.

    Args:
        compiled: measure ``torch.compile`` instead of plain torch.
    """
    torch._dynamo.reset()  # each case compiles anew; its kernels stay cached on disk
    seed(case)
    named = implementations(case, compile_backend=effort.compile_backend if compiled else None)
    if not named:
        return [], []
    given = draw(case, device.place)
    refusals = check(case, named, given, device)
    for refusal in refusals:
        del named[refusal.implementation]
    slots = [given, *(draw(case, device.place) for _ in range(1, slots_for(case.bytes, device.cache_bytes)))]
    calls = {name: _calls(implementation, case, slots, device) for name, implementation in named.items()}
    half = torch.randn(max(1, case.bytes // 2 // case.dtype.itemsize), dtype=case.dtype, device=device.place)
    # The copy reads half of the bytes and writes half.
    calls[COPY] = [partial(lambda source: [source.clone()], half.clone()) for _ in slots]
    figures = time_calls(calls, device, effort, MODES)
    return [
        {
            **case.subject,
            "implementation": name,
            "bytes": case.bytes,
            **cells(figures, name),
            "peak_bytes": device.peak_bytes(of_slots[0]),
        }
        for name, of_slots in calls.items()
    ], refusals


def slots_for(bytes_moved: int, cache_bytes: int) -> int:
    """How many sets of buffers a call must rotate through to find none in cache: three times the cache together."""
    return max(2, 3 * cache_bytes // bytes_moved + 1)


def _calls(implementation: Implementation, case: Case, slots: Sequence[Given], device: Device) -> list[Call]:
    """The same call on as many sets of buffers as it needs to find none of them in cache.

    All implementations share ``slots``, except those that keep more than the problem's bytes. Memory has no room for as
    many sets of these (for minibatch discrimination of 128 samples plain torch keeps 40 MB per call, and the minimum is
    0.3 MB), and they need fewer. So they get sets of their own, which no other implementation reads.
    """

    def bound() -> tuple[Call, list[Tensor]]:
        call = implementation(slots[0])
        return call, call()

    needed = slots_for(max(case.bytes, device.held_bytes(bound)), device.cache_bytes)
    own = slots if needed >= len(slots) else [draw(case, device.place) for _ in range(needed)]
    return [implementation(given) for given in own]


def time_calls(
    calls: Mapping[str, Sequence[Callable[[], Any]]], device: Device, effort: Effort, modes: Iterable[str]
) -> dict[str, dict[str, Quartiles]]:
    """Seconds per call, by mode and implementation.

    Args:
        calls: by implementation, the same call on different buffers, enough of them to find none in cache.
        modes: some of ``MODES``. ``"device"``: device time with a cold cache; ``"graph"``: device time inside a
            replayed CUDA graph, where it can be captured; ``"wall"``: wall time of several eager calls.
    """
    for of_slots in calls.values():
        for call in of_slots:
            call()
    graphs = {}
    if "graph" in modes:
        captured = {name: device.capture(of_slots) for name, of_slots in calls.items()}
        graphs = {name: graph for name, graph in captured.items() if graph is not None}
    host = {name: min(device.host_seconds(of_slots[0]) for _ in range(3)) for name, of_slots in calls.items()}
    # Replaying a graph of a thousand launches keeps the host busy for longer than one launch does.
    host_of_graph = {name: min(device.host_seconds(replay) for _ in range(3)) for name, replay in graphs.items()}
    of_call = {name: device.wall(of_slots[:1]) for name, of_slots in calls.items()}

    # Implementations share the operands, and so one cursor: none may find in cache a buffer that another has just read.
    cursor = itertools.count()
    held: dict[tuple[str, int], object] = {}

    def cold(name: str) -> float:
        slot = next(cursor) % len(calls[name])

        def call() -> None:
            # Outputs are kept for a whole rotation: memory that was just freed would still be in cache.
            held[name, slot] = calls[name][slot]()

        return device.timed(call, host[name])

    def graph(name: str) -> float:
        return device.timed(graphs[name], host_of_graph[name]) / len(calls[name])

    def wall(name: str) -> float:
        of_slots = calls[name]
        count = max(1, min(effort.wall_calls, int(_WALL_SECONDS / of_call[name])))
        return device.wall([of_slots[next(cursor) % len(of_slots)] for _ in range(count)])

    samplers = {"device": cold, "graph": graph, "wall": wall}
    figures: dict[str, dict[str, Quartiles]] = {}
    gc.disable()
    try:
        for mode in modes:
            sample = {name: partial(samplers[mode], name) for name in (graphs if mode == "graph" else calls)}
            figures[mode] = interleave(sample, rounds=effort.rounds, seconds=effort.seconds)
            held.clear()
    finally:
        gc.enable()
    return figures


def interleave(
    samplers: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Quartiles]:
    """Samples every implementation once per round, so that a drifting clock or a busy neighbor affects all alike.

    Each round starts with another implementation. Ends after ``rounds``, or after ``seconds`` and at least
    ``_MIN_ROUNDS`` rounds.
    """
    names = list(samplers)
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = now()
    for turn in range(rounds):
        if turn >= _MIN_ROUNDS and now() - start > seconds:
            break
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            samples[name].append(samplers[name]())
    return {name: Quartiles.of(taken) for name, taken in samples.items() if taken}


def cells(figures: Mapping[str, Mapping[str, Quartiles]], name: str) -> dict[str, object]:
    """An implementation's figures as cells of a row: microseconds, and shares of the speed of the copy."""
    row: dict[str, object] = {}
    for mode, by_name in figures.items():
        if (q := by_name.get(name)) is None:
            continue
        row |= {f"{mode}_us_{part}": f"{getattr(q, part) * 1e6:.3f}" for part in ("q1", "median", "q3")}
        row[f"{mode}_samples"] = q.samples
        if mode != "wall" and COPY in by_name:
            row[f"share_of_copy_{mode}"] = f"{by_name[COPY].median / q.median:.4f}"
    return row
