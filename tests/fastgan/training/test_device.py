import pytest
import torch

from fastgan.training.config import SettingsError
from fastgan.training.device import resolve_device


@pytest.fixture
def see_gpus(monkeypatch):
    def see(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return see


@pytest.mark.parametrize(
    ("name", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_a_device_that_is_there(see_gpus, name, count, expected):
    see_gpus(count)
    assert resolve_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("cuda", 0, "device 'cuda' is not there: torch sees no CUDA device"),
        ("cuda:1", 1, "device 'cuda:1' is not there: torch sees 1 CUDA device$"),
        ("cuda:9", 2, "device 'cuda:9' is not there: torch sees 2 CUDA devices$"),
        ("tpu", 2, "device is 'tpu', expected auto, cpu, cuda or cuda:INDEX"),
        ("cuda:x", 2, "device is 'cuda:x', expected auto, cpu, cuda or cuda:INDEX"),
    ],
)
def test_a_device_that_is_not(see_gpus, name, count, message):
    see_gpus(count)
    with pytest.raises(SettingsError, match=message):
        resolve_device(name)
