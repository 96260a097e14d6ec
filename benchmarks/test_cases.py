"""The cases of the registry through pytest-benchmark, comparable from commit to commit."""

from itertools import cycle

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.devices import CpuDevice, CudaDevice
from benchmarks.measure import Effort, binders, check
from benchmarks.passes import Operands
from benchmarks.registry import Case


def test_case(
    benchmark: BenchmarkFixture,
    case: Case,
    provider: str,
    slots: list[Operands],
    where: CpuDevice | CudaDevice,
    effort: Effort,
    identity: dict[str, str],
) -> None:
    torch._dynamo.reset()  # else the providers of many cases share one limit of recompilations
    binder = binders(case, effort.compile_backend)[provider]
    for refusal in check(case, {provider: binder}, slots[0], where):
        pytest.fail(f"{refusal.kind}, not timed: {refusal.reason}", pytrace=False)

    calls = [binder(operands) for operands in slots]
    for call in calls:  # what is made once for each set of buffers is not timed
        call()
    in_turn = cycle(calls)

    def call_and_wait() -> None:
        next(in_turn)()
        where.synchronize()

    benchmark.group = case.key
    benchmark.extra_info.update(identity, bytes=case.bytes)
    benchmark.pedantic(call_and_wait, rounds=effort.rounds)
    if benchmark.stats:  # None under --benchmark-disable, and under xdist, which disables it as well
        benchmark.extra_info["gb_per_s"] = round(case.bytes / benchmark.stats.stats.median / 1e9, 3)
