"""Sampling on a fake clock: nothing here depends on how fast the machine is."""

import pytest

from benchmarks.timing import MIN_ROUNDS, Quartiles, interleave, slots_for


class _Clock:
    """Providers that take what they are told and note when they ran."""

    def __init__(self) -> None:
        self.time = 0.0
        self.order: list[str] = []

    def now(self) -> float:
        return self.time

    def provider(self, name: str, durations: list[float]):
        remaining = iter(durations)

        def sample() -> float:
            self.order.append(name)
            duration = next(remaining)
            self.time += duration
            return duration

        return sample


def test_every_round_has_every_provider_and_another_first():
    clock = _Clock()
    samplers = {name: clock.provider(name, [1.0] * 3) for name in "abc"}
    interleave(samplers, rounds=3, seconds=100, now=clock.now)
    assert "".join(clock.order) == "abc" + "bca" + "cab"


def test_medians_and_quartiles_are_those_of_each_provider():
    clock = _Clock()
    samplers = {"a": clock.provider("a", [5, 1, 2, 4, 300]), "b": clock.provider("b", [10, 10, 10, 10, 20])}
    figures = interleave(samplers, rounds=5, seconds=1e9, now=clock.now)
    assert figures["a"] == Quartiles(2, 4, 5, samples=5)
    assert figures["b"] == Quartiles(10, 10, 10, samples=5)


def test_time_ends_the_rounds_but_never_below_what_quartiles_need():
    clock = _Clock()
    interleave({"slow": clock.provider("slow", [10.0] * 99)}, rounds=99, seconds=1, now=clock.now)
    assert len(clock.order) == MIN_ROUNDS
    clock = _Clock()
    interleave({"quick": clock.provider("quick", [0.1] * 99)}, rounds=99, seconds=1, now=clock.now)
    assert len(clock.order) == 11  # the first round that starts after more than a second


def test_a_single_sample_is_its_own_quartiles():
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0, samples=1)


@pytest.mark.parametrize(("bytes_moved", "cache"), [(1, 10), (7, 100), (50, 50), (100, 50), (10**9, 50 * 2**20)])
def test_rotation_passes_three_times_the_cache(bytes_moved: int, cache: int):
    slots = slots_for(bytes_moved, cache)
    assert slots >= 2
    assert slots * bytes_moved > 3 * cache
    assert slots == 2 or (slots - 1) * bytes_moved <= 3 * cache  # and not by more than one
