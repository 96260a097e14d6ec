"""`pytest benchmarks`: the machine and the cases; without a GPU the kernels run in Triton's interpreter."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton

import zlib
from collections.abc import Iterator

import pytest

from benchmarks import machine
from benchmarks.devices import CpuDevice, CudaDevice, device
from benchmarks.measure import TOY, Effort, binders
from benchmarks.old_ops import OPS
from benchmarks.passes import Operands, configure_compilation, draw
from benchmarks.registry import Case, cases
from benchmarks.timing import slots_for
from fastgan_kernels import use_backend

_TOY = not torch.cuda.is_available()


def pytest_report_header() -> str:
    if _TOY:
        return "benchmarks: no GPU, toy sizes in Triton's interpreter: this proves the run and nothing about speed"
    return f"benchmarks: {torch.cuda.get_device_name()}; wall time of a call and a synchronisation"


def pytest_benchmark_update_machine_info(machine_info: dict) -> None:
    # pytest-benchmark warns where it compares runs whose machines differ.
    machine_info["chip"] = machine.identity()["chip"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "provider" in metafunc.fixturenames:
        pairs = [(case, name) for case in cases(OPS, toy=_TOY) for name in binders(case, TOY.compile_backend)]
        ids = [f"{case.key}/{provider}" for case, provider in pairs]
        metafunc.parametrize(("case", "provider"), pairs, ids=ids, indirect=["case"])


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def slots(case: Case, where: CpuDevice | CudaDevice) -> list[Operands]:
    """Operands of a case, the same for all its providers: as many sets as it takes to find none in cache."""
    torch.manual_seed(zlib.crc32(case.key.encode()))
    return [draw(case, where.torch_device) for _ in range(slots_for(case.bytes, where.cache_bytes))]


@pytest.fixture(scope="session")
def where() -> Iterator[CpuDevice | CudaDevice]:
    configure_compilation()
    with use_backend("triton"):
        yield device()


@pytest.fixture(scope="session")
def effort() -> Effort:
    return TOY if _TOY else Effort()


@pytest.fixture(scope="session")
def identity() -> dict[str, str]:
    return machine.identity()
