"""Lists what is known of the ops without a GPU: launches, minimum bytes, and the least time that these need."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from benchmarks.cases import Case
from benchmarks.chips import CHIPS, bound_seconds
from benchmarks.static.passes import activities


def lines(chosen: Sequence[Case], chip_name: str, *, details: bool) -> Iterator[str]:
    """One line per op, with the figures of each pass at its first problem; with ``details`` one line per case.

    Raises:
        ValueError: for a chip that is not in the table.
    """
    if chip_name not in CHIPS:
        raise ValueError(f"no chip is called {chip_name!r}; the chips are {', '.join(CHIPS)}")
    chip = CHIPS[chip_name]
    yield "No GPU, so nothing is timed. For each op's first problem (--details: for all):"
    yield f"launches, minimum bytes, and the least time in us that these need on the {chip_name}."
    yield f"{'op':24} {'launches':8} {'of eager':9} {'MB':14} us"
    done = set()
    for (op, *_), group in groupby(chosen, key=lambda case: (case.op.name, case.problem, case.dtype_name, case.layout)):
        passes = list(group)
        if op in done and not details:
            continue
        done.add(op)
        functions = passes[0].op.op, passes[0].op.plain
        ours, eager = ("/".join(str(len(activities(case, f, chip.target))) for case in passes) for f in functions)
        mb = "/".join(_short(case.bytes / 1e6) for case in passes)
        us = "/".join(_short(1e6 * bound_seconds(chip, case.bytes)) for case in passes)
        name = passes[0].key.rsplit("/", 1)[0] if details else op
        yield f"{name:24} {ours:8} {eager:9} {mb:14} {us}"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"
