"""One HTML file that tells a run: what was measured on what, tables, pictures, and what fell short."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import plots, tables, training
from benchmarks.tables import Measured, Row

REPORT = "report.html"

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1500px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; margin-bottom: 1.5em; }
th, td { padding: 2px 7px; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; background: #f6f6f6; }
.wide { overflow-x: auto; }
.text { text-align: left; }
.slower { color: #b00020; font-weight: bold; }
.warning { background: #b00020; color: white; font-size: 18px; font-weight: bold; padding: .7em 1em; }
img { max-width: 100%; margin: .7em 0; }
"""
_HOW_TO_READ = (
    "Times are medians in microseconds; quartiles are of the cold time, those of whole steps of the wall time. Cold: "
    "device time with the operands not in cache; warm: they may be; graph: a call inside a replayed CUDA graph, cold; "
    "wall: an eager call as the host sees it. Clone: speed as a share of a copy that moves the bytes of the floor, in "
    "the same rounds. The columns of the other providers say how many times faster fused is; what is below 1 is red: "
    "there it is slower. A dash was not measured."
)


def write_report(
    rows: Iterable[Row],
    out: Path,
    *,
    notes: Sequence[str] = (),
    machine: Mapping[str, object] | None = None,
) -> Path:
    """Writes ``out``/report.html, which needs no other file, and each of its pictures beside it; returns its path.

    Args:
        rows: those of one run, as :func:`benchmarks.results.read` gives them.
        out: a folder; made if it is not there.
        notes: a line each: what fell short, was refused, or is missing. They stand at the end.
        machine: whatever else describes the machine, such as :func:`benchmarks.machine.description`.

    Without matplotlib the report has no pictures, and says so.

    Raises:
        ValueError: if there are no rows, or if they come from several runs.
    """
    rows = list(rows)
    identity = tables.identity(rows)
    cases = tables.measured(rows)
    out.mkdir(parents=True, exist_ok=True)
    shown = pictures(rows) if plots.available() else {}
    images = []
    for name, figure in shown.items():
        path = out / f"{name}.png"
        plots.save(figure, path)
        images.append((name, base64.b64encode(path.read_bytes()).decode()))

    warning = tables.warning(identity)
    described = {**identity, **(machine or {})}
    title = f"fastgan on {identity['chip']}, {identity['date'][:10]}"
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>",
        f'<p class="warning">{_text(warning)}</p>' if warning else "",
        f"<h1>{_text(title)}</h1>",
        "<h2>Machine</h2>",
        _table(["", ""], [[(name, "text"), (value, "text")] for name, value in described.items() if value != ""]),
        "<h2>Limits measured in this run</h2>",
        _list(tables.limits(rows).lines()) or "<p>Not measured.</p>",
        "<h2>Results</h2>",
        f"<p>{_HOW_TO_READ}</p>",
        *(_of_op(op, [case for case in cases if case.op == op]) for op in dict.fromkeys(case.op for case in cases)),
        _training(cases),
        "<h2>Pictures</h2>",
        *(f'<img alt="{_text(name)}" src="data:image/png;base64,{data}">' for name, data in images),
        "" if plots.available() else '<p>None: matplotlib is not installed (pip install -e ".[bench]").</p>',
        "<h2>What fell short, was refused or is missing</h2>",
        _list(notes) or "<p>Nothing was reported.</p>",
        "</body></html>",
    ]
    path = out / REPORT
    path.write_text("\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return path


def pictures(rows: Sequence[Row]) -> "dict[str, plots.Figure]":
    """Every picture that ``rows`` of one run allow, by the name of its file without ending."""
    cases = tables.measured(rows)
    common = set(tables.kinds(cases))
    keys = [case for case in tables.key_cases(cases) if case.kind in common]
    figures = {}
    for op in dict.fromkeys(case.op for case in cases):
        of_op = [case for case in keys if case.op == op]
        figures[f"{file_name(op)}-share"] = plots.share_against_size(rows, op)
        for mode in dict.fromkeys(case.mode for case in of_op):
            figures[f"{file_name(op)}-speedup"] = plots.speedups(of_op, title=op, mode=mode)
        figures[f"{file_name(op)}-breakdown"] = plots.steps([row for row in rows if row["op"] == op])
    return {name: figure for name, figure in figures.items() if figure is not None}


def file_name(text: str) -> str:
    """``text`` in letters, digits, dots and underscores, for the name of a file."""
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._") else "-" for letter in text)


def _of_op(op: str, cases: Sequence[Measured]) -> str:
    # A column without a single figure tells nothing.
    columns = [c for c in tables.columns(cases, compact=False) if any(c.cell(case) != "-" for case in cases)]
    rows = [
        [
            (case.problem, "text"),
            *((c.cell(case), "slower" if c.slower(case) else "text" if c.unit == "text" else "") for c in columns),
        ]
        for case in cases
    ]
    return f"<h3>{_text(op)}</h3>" + _table(["problem", *(column.heading for column in columns)], rows)


def _training(cases: Sequence[Measured]) -> str:
    if not (found := training.training(cases)):
        return ""
    rows = [[(cell, "text" if i < 3 else "") for i, cell in enumerate(rates.cells())] for rates in found]
    return f"<h2>Training</h2><p>{_text(training.LEGEND)}</p>" + _table(training.HEAD, rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[tuple[object, str]]]) -> str:
    head = "".join(f"<th>{_text(heading)}</th>" for heading in headings)
    lines = ("".join(f'<td class="{style}">{_text(cell)}</td>' for cell, style in row) for row in rows)
    top = f"<tr>{head}</tr>" if any(headings) else ""
    return f'<div class="wide"><table>{top}' + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in lines)}</ul>" if lines else ""


def _text(value: object) -> str:
    return html.escape(str(value))
