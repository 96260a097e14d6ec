"""Where there is no GPU the kernels run in Triton's interpreter, chosen before the first import of triton."""

import os

# Read where torch starts, here and in the processes of tests. Cores are for processes: most of the suite is Python.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
import triton
from hypothesis import HealthCheck, settings

from tests.interpreter import spare

# Kernels in the interpreter, and compilation on a chip, take far longer than hypothesis expects of an example.
settings.register_profile(
    "fastgan", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("fastgan")


_SPARED = not torch.cuda.is_available() and spare()


def pytest_xdist_auto_num_workers() -> int:
    """Processes share a GPU and its memory."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, 4) if torch.cuda.is_available() else cores


def pytest_report_header() -> str | None:
    if torch.cuda.is_available() or _SPARED:
        return None
    return f"triton {triton.__version__}: its interpreter runs as it is, and the tests take about three times as long"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
