"""Rows of results as a GPU would give them."""

from benchmarks.cases import Case, cases
from benchmarks.measure import COPY
from benchmarks.results import COLUMNS
from benchmarks.steps import steps

IDENTITY = {
    "date": "2026-01-02T03:04:05+00:00",
    "commit": "0123456789abcdef",
    "dirty": "no",
    "device": "cuda",
    "chip": "NVIDIA H200",
    "driver": "570",
    "torch": "2.11.0",
    "triton": "3.6.0",
}
TIMES = {"fused": 100.0, "eager": 250.0, COPY: 90.0}
KEYS = [case for case in cases() if case.rank == 0]


def row(case: Case, implementation: str, us: float, **changed: object) -> dict[str, str]:
    figures = {
        f"{mode}_us_{part}": f"{us * factor:.3f}"
        for mode in ("device", "graph", "wall")
        for part, factor in (("q1", 0.99), ("median", 1.0), ("q3", 1.01))
    }
    share = f"{TIMES[COPY] / us:.4f}"
    shares = {"share_of_copy_device": share, "share_of_copy_graph": share}
    cells = {**IDENTITY, **case.subject, "implementation": implementation, "bytes": case.bytes, **figures, **shares}
    return {column: str({**cells, **changed}.get(column, "")) for column in COLUMNS}


def rows(listed: list[Case] = KEYS, **changed: object) -> list[dict[str, str]]:
    return [row(case, name, us, **changed) for case in listed for name, us in TIMES.items()]


def step_rows() -> list[dict[str, str]]:
    cells = [
        {**IDENTITY, **step.subject, "implementation": name, "wall_us_median": us}
        for step in steps()[:2]
        for name, us in TIMES.items()
        if name != COPY
    ]
    return [{column: str(of.get(column, "")) for column in COLUMNS} for of in cells]
