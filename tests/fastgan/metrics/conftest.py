import pytest


@pytest.fixture(scope="session")
def torch_fidelity() -> None:
    """Skips where torch-fidelity cannot be imported: not there, or beside a torchvision of another build of torch."""
    try:
        import torch_fidelity  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch-fidelity cannot be imported: {error}")
