"""How samples are taken and summed up. Knows no GPU: see devices.py."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_ROUNDS = 5  # below that, quartiles say nothing


@dataclass(frozen=True)
class Quartiles:
    """Lower quartile, median and upper quartile, in the unit of the samples, and how many there were."""

    q1: float
    median: float
    q3: float
    samples: int

    @classmethod
    def of(cls, samples: list[float]) -> "Quartiles":
        if len(samples) == 1:
            return cls(*samples * 3, samples=1)
        return cls(*statistics.quantiles(samples, n=4, method="inclusive"), samples=len(samples))


def interleave(
    samplers: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    seconds: float,
    now: Callable[[], float] = time.perf_counter,
) -> dict[str, Quartiles]:
    """Samples every provider once a round, so that a drifting clock or a busy neighbour meets all of them alike.

    The first of a round changes from round to round. Ends after ``rounds``, or after ``seconds`` with at least
    ``MIN_ROUNDS`` done.
    """
    names = list(samplers)
    samples: dict[str, list[float]] = {name: [] for name in names}
    start = now()
    for turn in range(rounds):
        if turn >= MIN_ROUNDS and now() - start > seconds:
            break
        for k in range(len(names)):
            name = names[(turn + k) % len(names)]
            samples[name].append(samplers[name]())
    return {name: Quartiles.of(taken) for name, taken in samples.items() if taken}


def slots_for(bytes_moved: int, cache_bytes: int) -> int:
    """How many sets of buffers a call must rotate through to find none of them in cache: past three times its size."""
    return max(2, 3 * cache_bytes // bytes_moved + 1)
