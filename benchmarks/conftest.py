"""`pytest benchmarks`: without a GPU the kernels run in Triton's interpreter, on toy sizes."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the first import of triton

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # pytest-xdist disables pytest-benchmark, and parallel processes would disturb each other's timings.
    if getattr(config.option, "numprocesses", None):
        config.option.numprocesses, config.option.dist, config.option.tx = 0, "no", []


def pytest_report_header() -> str:
    where = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, toy sizes: this says nothing of speed"
    )
    return f"benchmarks: {where}; wall time of one call and a synchronization"
