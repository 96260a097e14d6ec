import pytest
import torch

from fastgan_kernels import use_backend


@pytest.fixture(autouse=True)
def kernels_not_references():
    """Every test of a kernel runs the kernel, on the chip or in the interpreter."""
    with use_backend("triton"):
        yield


@pytest.fixture(autouse=True)
def oracles_of_full_precision():
    """float32 products and convolutions are not rounded to TF32 on a GPU, which torch does to convolutions by default.

    Before each test, for training sets it for the whole process.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Fills uninitialized memory with NaN, so that an element that a kernel forgets is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_compiler():
    yield
    torch.compiler.reset()
