import pytest
import torch

from fastgan.training.device import fits_on_gpu, largest_batch_size, peak_memory


@pytest.mark.parametrize("multiple", [1, 2, 6, 48])
@pytest.mark.parametrize("limit", [2, 5, 8, 47, 96, 100, 1000, 12345, 2**21])
def test_the_largest_batch_is_found_to_within_an_eighth(limit, multiple):
    tried = []

    def fits(size):
        tried.append(size)
        assert size % multiple == 0
        assert 2 <= size <= 2**20
        return size <= limit

    found = largest_batch_size(fits, multiple)
    possible = [n for n in range(multiple, min(limit, 2**20) + 1, multiple) if n >= 2]
    if not possible:
        assert found is None
    else:
        assert possible[-1] - max(multiple, possible[-1] // 8) <= found <= possible[-1]
    assert len(tried) <= 32
    assert len(set(tried)) == len(tried)  # none is tried twice


def test_a_trial_that_runs_out_of_memory_or_nearly_does_not_fit(monkeypatch):
    """With torch.cuda's figures in the place of a device's."""
    allocated = {"peak": 0}

    def trial(size):
        allocated["peak"] = 100 + size
        if size > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: allocated["peak"])
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    fits = [fits_on_gpu(lambda size=size: trial(size), torch.device("cuda")) for size in (10, 900, 901, 1001)]
    assert fits == [True, True, False, False]


def test_other_errors_of_a_trial_are_told():
    with pytest.raises(ZeroDivisionError):
        largest_batch_size(lambda size: 1 // 0, 1)


def test_the_peak_on_the_cpu_is_that_of_the_process():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(2**25)  # 128 MiB
    after = peak_memory(torch.device("cpu"))
    assert 2**24 < before <= after
    assert after < 2**36
    del held
