"""Where there is no GPU the kernels run in Triton's interpreter, chosen before the first import of triton."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import pytest
from hypothesis import HealthCheck, settings

from tests.interpreter import spare

# Kernels in the interpreter, and compilation on a chip, take far longer than hypothesis expects of an example.
settings.register_profile(
    "fastgan", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("fastgan")


if not torch.cuda.is_available():
    spare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
