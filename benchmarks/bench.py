"""``fastgan bench``: what one measures on one's own GPU in a sitting, with a report at the end.

The evidence run (evidence.py) measures everything, survives faults of the device and goes on where it was cut off; this
one measures what is asked for, in this process.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from benchmarks import aims, compare, machine, plots, prediction, report, results, tables
from benchmarks.devices import device
from benchmarks.limits import OP as LIMIT
from benchmarks.limits import Limit
from benchmarks.measure import TOY, Effort
from benchmarks.old_ops import OPS
from benchmarks.passes import configure_compilation
from benchmarks.registry import Case
from benchmarks.suite import AnyCase, measure_any, suite
from fastgan_kernels import use_backend

_COLUMNS = {"op": "op", "problem": "problem", "dtype": "dtype", "layout": "layout", "pass": "pass"}
_FEW = 5  # values that are all told to who gives another
_QUICK = ("float32", "contiguous"), ("bfloat16", "contiguous")


@dataclass(frozen=True)
class Selection:
    """What to measure: of each column of a result the values that are asked for, none of them meaning all.

    Args:
        full: every size, type and layout; otherwise the key problems, contiguous, in float32 and bfloat16, unless a
            column asks for others.
    """

    op: Sequence[str] = ()
    problem: Sequence[str] = ()
    dtype: Sequence[str] = ()
    layout: Sequence[str] = ()
    pass_: Sequence[str] = ()
    full: bool = False

    def of(self, listed: Sequence[AnyCase]) -> list[AnyCase]:
        """The cases, behind the limits of the machine, which are always measured.

        Raises:
            ValueError: for a value that no case has, or where no case has all that is asked for.
        """
        limits, others = _split(listed)
        asked = {column: tuple(getattr(self, "pass_" if column == "pass" else column)) for column in _COLUMNS}
        for column, values in asked.items():
            known = sorted({str(case.subject[column]) for case in others})
            for value in values:
                if value not in known:
                    raise ValueError(f"no case has the {column} {value!r}{_hint(value, known)}")
        chosen = [
            case
            for case in others
            if all(not values or case.subject[column] in values for column, values in asked.items())
        ]
        if not self.full:
            chosen = [case for case in chosen if self._is_quick(case, asked)]
        if not chosen:
            said = ", ".join(f"{column} {' or '.join(values)}" for column, values in asked.items() if values)
            raise ValueError(f"no case has {said}; without --full only the key problems are measured")
        return [*limits, *chosen]

    @staticmethod
    def _is_quick(case: AnyCase, asked: dict[str, tuple[str, ...]]) -> bool:
        kind = case.subject["dtype"], case.subject["layout"]
        common = kind in _QUICK or bool(asked["dtype"] or asked["layout"])
        return common and (case.rank == 0 or case.problem.key or bool(asked["problem"]))


def run(selection: Selection, out: Path | None, *, toy: bool, chip: str, console: Console) -> int:
    """Measures on the GPU, writes ``results.csv`` and the report, prints the table; predicts where there is none.

    Args:
        selection: what to measure.
        out: a folder without results; ``bench/DATE`` by default.
        toy: on a CPU, measure toy sizes in Triton's interpreter: it shows that the suite works.
        chip: for a prediction, a name in :mod:`benchmarks.chips`.

    Returns:
        0; 1 if a fused op was wrong or failed, which is then reported and not timed.

    Raises:
        ValueError: for a selection of nothing; one sentence.
        OSError: if ``out`` cannot be written.
    """
    if not torch.cuda.is_available() and not toy:
        return _predict(selection, out, chip, console)
    chosen = selection.of(suite(toy=toy))
    identity = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **machine.identity()}
    out = out or Path("bench") / identity["date"].replace(":", "").replace("+0000", "")
    if (out / "results.csv").exists():
        raise ValueError(f"{out} holds results already; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    console.print(", ".join(f"{k} {identity[k]}" for k in ("chip", "driver", "torch", "triton") if identity[k]))

    notes: list[str] = []
    wrong = 0
    try:
        wrong = _measure(chosen, identity, out, notes, toy=toy, console=console)
    finally:
        # Also after Ctrl-C: what was measured is told.
        if (out / "results.csv").exists():
            _tell(out, notes, console)
    return int(wrong > 0)


def _measure(
    chosen: Sequence[AnyCase], identity: dict[str, str], out: Path, notes: list[str], *, toy: bool, console: Console
) -> int:
    """Appends rows to the table and reasons to ``notes``; returns how often a fused op was refused."""
    configure_compilation()
    where = device()
    effort = TOY if toy else Effort()
    wrong = 0
    with use_backend("triton"):
        for case in track(chosen, "measuring", console=console, transient=True):
            try:
                rows, refusals = measure_any(case, where, effort)
            except Exception as failure:
                where.synchronize()  # raises again after a fault of the device
                notes.append(f"failed: {case.key}: {type(failure).__name__}: {failure}"[:300])
                wrong += 1
                continue
            results.append(out / "results.csv", [{**identity, **row} for row in rows])
            for refusal in refusals:
                notes.append(f"{refusal.kind}, not timed: {refusal.provider} in {case.key}: {refusal.reason}")
                wrong += refusal.provider.startswith("fused")
    return wrong


def _tell(out: Path, notes: list[str], console: Console) -> None:
    rows = results.read(out / "results.csv")
    notes += [f"fell short: {verdict}" for verdict in aims.judge(rows) if not verdict.met]
    for line in tables.limits(rows).lines():
        console.print(line, highlight=False)
    if any(row["op"] != LIMIT for row in rows):
        console.print(tables.table(rows))
    for note in notes:
        console.print(note, highlight=False, markup=False)
    written = report.write_report(rows, out, notes=notes, machine=machine.description())
    console.print(f"{len(rows)} results in {out / 'results.csv'}, report in {written}", highlight=False, markup=False)
    if not plots.available():
        console.print("no pictures: matplotlib is missing; pip install 'fastgan[bench]'", markup=False)


def _predict(selection: Selection, out: Path | None, chip: str, console: Console) -> int:
    of_ops = [case for case in selection.of(suite()) if isinstance(case, Case)]
    if not of_ops:
        raise ValueError(
            "torch sees no GPU, so nothing can be timed; a prediction is made op by op, and no op is among what was "
            "asked for"
        )
    console.print(
        "torch sees no GPU, so nothing is timed: what follows is known of the kernels without one, and predicted of "
        f"{chip} (--chip)",
        highlight=False,
    )
    known = [op.name for op in OPS]
    of_ops.sort(key=lambda case: known.index(case.op.name))
    return prediction.tell(of_ops, chip, counted=selection.full, out=out and out / "prediction.csv", console=console)


def run_comparison(a: Path, b: Path, console: Console) -> int:
    """Tells what moved beyond noise from run ``a`` to run ``b``; 1 if something is slower or lost.

    Raises:
        ValueError: see :func:`benchmarks.compare.compare`.
    """
    comparison = compare.compare(a, b)
    console.print(compare.report(comparison), highlight=False, markup=False)
    return comparison.exit_code


def _split(listed: Iterable[AnyCase]) -> tuple[list[AnyCase], list[AnyCase]]:
    limits: list[AnyCase] = []
    others: list[AnyCase] = []
    for case in listed:
        (limits if isinstance(case, Limit) else others).append(case)
    return limits, others


def _hint(value: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(value, known, n=1)
    if nearest and len(known) > _FEW:
        return f"; did you mean {nearest[0]!r}?"
    return f", expected one of {', '.join(known)}"
