import pytest
import torch

from fastgan_kernels import use_backend


@pytest.fixture
def backend(request: pytest.FixtureRequest):
    """Triton's interpreter is slow, so the kernels run in one case of each kind."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def fresh_compiler():
    yield
    torch.compiler.reset()
