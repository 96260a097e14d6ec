"""What is known of the ops where there is no GPU: launches, minimum bytes, and the bound that these set."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from benchmarks.cases import Case, bind, draw
from benchmarks.chips import CHIPS, bound_seconds
from benchmarks.static.launches import recorded


def launches(function: Callable[..., Any], case: Case, target: str) -> int:
    """How many kernels, and operators of torch that move bytes, a call launches; counted on the meta device."""
    with recorded(target) as activities:
        call = bind(function, case, draw(case, torch.device("meta")))
        before = len(activities)
        call()
    return len(activities) - before


def lines(chosen: Sequence[Case], chip_name: str, *, details: bool) -> Iterator[str]:
    """A line an op, of its first case, with the figures of its passes; or with ``details`` a line for every case.

    Raises:
        ValueError: for a chip that is not in the table.
    """
    if chip_name not in CHIPS:
        raise ValueError(f"no chip is called {chip_name!r}; the chips are {', '.join(CHIPS)}")
    chip = CHIPS[chip_name]
    yield "No GPU, so nothing is timed. Of each op's first problem (all: --details):"
    yield f"launches, minimum bytes, and the us that these take at least on a {chip_name}."
    yield f"{'op':24} {'launches':8} {'of eager':9} {'MB':14} us"
    done = set()
    for (op, *_), group in groupby(chosen, key=lambda case: (case.op.name, case.problem, case.dtype_name, case.layout)):
        passes = list(group)
        if op in done and not details:
            continue
        done.add(op)
        functions = passes[0].op.op, passes[0].op.reference
        ours, eager = ("/".join(str(launches(f, case, chip.target)) for case in passes) for f in functions)
        mb = "/".join(_short(case.bytes / 1e6) for case in passes)
        us = "/".join(_short(1e6 * bound_seconds(chip, case.bytes)) for case in passes)
        name = passes[0].key.rsplit("/", 1)[0] if details else op
        yield f"{name:24} {ours:8} {eager:9} {mb:14} {us}"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
