"""Times the cases of the ops with pytest-benchmark, for work on one kernel and for comparing commits."""

from collections.abc import Iterator
from itertools import cycle

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import measure
from benchmarks.cases import Case, cases, draw, implementations
from benchmarks.devices import device
from benchmarks.measure import Device, slots_for
from fastgan_kernels import use_backend

_TOY = not torch.cuda.is_available()


@pytest.fixture(scope="session")
def where() -> Iterator[Device]:
    measure.without_tf32()
    with use_backend("triton"):
        yield device()


@pytest.mark.parametrize(
    ("case", "name"),
    [pytest.param(case, name, id=f"{case.key}/{name}") for case in cases(toy=_TOY) for name in implementations(case)],
)
def test_case(benchmark: BenchmarkFixture, case: Case, name: str, where: Device) -> None:
    measure.seed(case)
    slots = [draw(case, where.place) for _ in range(slots_for(case.bytes, where.cache_bytes))]
    implementation = implementations(case)[name]
    for refusal in measure.check(case, {name: implementation}, slots[0], where):
        pytest.fail(f"not timed: {refusal.reason}", pytrace=False)
    calls = [implementation(given) for given in slots]
    for call in calls:  # one-time work per set of buffers is not timed
        call()
    in_turn = cycle(calls)

    def call_and_wait() -> None:
        next(in_turn)()
        where.synchronize()

    benchmark.group = case.key
    benchmark.pedantic(call_and_wait, rounds=1 if _TOY else 25)
