"""Draws the results in the READMEs from benchmarks/results.csv: no figure there is typed.

Of each chip the newest run counts. Text goes between the markers, pictures to docs/benchmarks; each picture carries the
digest of the rows that it shows, so that :func:`differences` can tell without drawing it again.
"""

import hashlib
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import aims, plots, report, results, tables, training
from benchmarks.tables import CLONE, COMPILE, EAGER, FUSED, FUSED_COMPILE, Measured, Row

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
ROOT = Path(__file__).parents[1]
PICTURES = Path("docs/benchmarks")
DRAW = "python -m benchmarks readme"

_TIMES_FASTER = ("times faster than eager", "than torch.compile")
_JUDGED_STEPS = ("wgan_gp_step", "r1_step")
_LISTED = 12  # aims that were missed, before "and n more"


@dataclass(frozen=True)
class Run:
    """The newest run on a chip."""

    rows: Sequence[Row]

    @property
    def identity(self) -> Mapping[str, str]:
        return tables.identity(self.rows)

    @property
    def cases(self) -> list[Measured]:
        return tables.measured(self.rows)

    @property
    def digest(self) -> str:
        return hashlib.sha256(results.render(self.rows).encode()).hexdigest()

    def file(self, name: str) -> str:
        return f"{report.file_name(self.identity['chip'])}-{report.file_name(name)}.png"


def write(root: Path = ROOT, csv: Path = results.REPOSITORY_CSV) -> list[Path]:
    """Draws everything anew in the checkout ``root``; returns the files that changed, pictures that went included.

    Raises:
        ValueError: if there is a GPU's run to draw and matplotlib is not installed, or a README lacks its markers.
    """
    runs = newest(results.read(csv))
    texts = _texts(runs, root)
    drawn = {root / PICTURES / run.file(name): (run, draw) for run in runs for name, draw in _pictures(run).items()}
    changed = []
    for path, (run, draw) in drawn.items():
        if _digest(path) != run.digest:
            figure = draw()
            path.parent.mkdir(parents=True, exist_ok=True)
            plots.save(figure, path, description=run.digest)
            changed.append(path)
    for path in sorted(set((root / PICTURES).glob("*.png")) - set(drawn)):
        path.unlink()
        changed.append(path)
    for path, text in texts.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def differences(root: Path = ROOT, csv: Path = results.REPOSITORY_CSV) -> list[str]:
    """A sentence for each file of the checkout ``root`` that does not say what ``csv`` says; draws nothing."""
    runs = newest(results.read(csv))
    found = [
        f"{path.relative_to(root)} is not what {DRAW!r} writes"
        for path, text in _texts(runs, root).items()
        if path.read_text(encoding="utf-8") != text
    ]
    drawn = {root / PICTURES / run.file(name): run for run in runs for name in _pictures(run)}
    found += [
        f"{path.relative_to(root)} is of other rows" for path, run in drawn.items() if _digest(path) != run.digest
    ]
    left_over = sorted(set((root / PICTURES).glob("*.png")) - set(drawn))
    return found + [f"{path.relative_to(root)} belongs to no run" for path in left_over]


def newest(rows: Iterable[Row]) -> list[Run]:
    """The newest run of each GPU, the newest first."""
    by_run: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["device"] in tables.GPUS:
            by_run.setdefault((row["date"], row["chip"]), []).append(row)
    of_chip: dict[str, Run] = {}
    for (_, chip), of_run in sorted(by_run.items(), key=lambda item: item[0], reverse=True):
        of_chip.setdefault(chip, Run(of_run))
    return list(of_chip.values())


def _texts(runs: Sequence[Run], root: Path) -> dict[Path, str]:
    written = {"README.md": _overview, "benchmarks/README.md": _pictures_text, "kernels/README.md": _by_problem}
    texts = {}
    for name, section in written.items():
        path = root / name
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end or END in after or BEGIN in after:
            raise ValueError(f"{name} must have one {BEGIN} and one {END} behind it")
        to_root = "../" * (len(Path(name).parts) - 1)
        texts[path] = f"{before}{BEGIN}\n{section(runs, to_root).strip()}\n{END}{after}"
    return texts


def _pictures(run: Run) -> dict[str, Callable[[], "plots.Figure | None"]]:
    """What is drawn of a run, by name; only what has something to show."""
    cases = run.cases
    shown: dict[str, Callable[[], plots.Figure | None]] = {}
    if of_ops := _largest(cases):
        shown["speedups"] = lambda: plots.speedups(of_ops, title="Largest key problem of each op")
    kind = tables.kinds(cases)[:1]
    judged = [row for row in run.rows if row["op"] in _JUDGED_STEPS and (row["dtype"], row["layout"]) in kind]
    if of_steps := [row for row in judged if row["parts_us"]]:
        shown["steps"] = lambda: plots.steps(of_steps)
    for op in dict.fromkeys(case.op for case in cases if case.bytes and case.us(FUSED, "cold")):
        kinds = tables.kinds(case for case in cases if case.op == op)[:1]
        shown[f"{op}-share"] = lambda op=op, kinds=kinds: plots.share_against_size(run.rows, op, kinds=kinds)
    return shown


def _largest(cases: Sequence[Measured]) -> list[Measured]:
    """Of each op the passes of its largest key problem, in the first of the common types and layouts."""
    kinds = tables.kinds(cases)[:1]
    compared = [
        case
        for case in tables.key_cases(cases)
        if case.kind in kinds and case.bytes and any(case.speedup(name, "cold") for name in (EAGER, COMPILE))
    ]
    largest: dict[str, Measured] = {}
    for case in compared:
        if case.op not in largest or case.bytes > largest[case.op].bytes:
            largest[case.op] = case
    return [case for case in compared if case.problem == largest[case.op].problem]


def _overview(runs: Sequence[Run], to_root: str) -> str:
    if not runs:
        return (
            "No GPU has been measured yet, so no speed is stated here: `benchmarks/results.csv` holds a header. On a\n"
            "machine with a GPU these fill it, in under nine minutes, and draw this part of the page:\n\n"
            "```\n"
            "python -m benchmarks evidence --out evidence/mine\n"
            "python -m benchmarks merge evidence/mine/results.csv\n"
            f"{DRAW}\n"
            "```"
        )
    parts = []
    for run in runs:
        cases = run.cases
        parts += [_heading(run), _ops_table(cases), _steps_table(cases), _training_table(cases), _aims(run)]
        parts += [_image(run, name, to_root) for name in ("speedups", "steps") if name in _pictures(run)]
    return "\n\n".join(part for part in parts if part)


def _pictures_text(runs: Sequence[Run], to_root: str) -> str:
    if not runs:
        return f"No GPU has been measured yet: there is nothing to draw. `{DRAW}` fills this part once there is."
    parts = []
    for run in runs:
        parts += [_heading(run), "\n".join(f"- {line}" for line in tables.limits(run.rows).lines())]
        parts += [_image(run, name, to_root) for name in _pictures(run) if name.endswith("-share")]
    return "\n\n".join(part for part in parts if part)


def _by_problem(runs: Sequence[Run], to_root: str) -> str:
    if not runs:
        return f"No GPU has been measured yet. `{DRAW}` fills this part once there is."
    parts = []
    for run in runs:
        cases = tables.key_cases(run.cases)
        kinds = tables.kinds(cases)[:1]
        cases = [case for case in cases if case.kind in kinds and case.bytes]
        columns = [
            tables.Column("op", lambda case: f"`{case.op}`"),
            tables.Column("problem", lambda case: case.problem),
            *tables.columns(cases, compact=True),
        ]
        head = [column.heading for column in columns]
        parts += [_heading(run), _table(head, [[column.cell(case) for column in columns] for case in cases])]
    legend = _paragraph(
        "Key problems. Medians in microseconds; `clone`: share of the speed of a copy that moves the bytes of the",
        "floor; then how many times faster than eager torch, torch.compile and the best vendor op (cold cache), and",
        "than eager torch in wall time.",
    )
    return "\n\n".join([legend, *parts])


def _heading(run: Run) -> str:
    about = run.identity
    changed = {"yes": ", with changes on top", "no": ""}.get(about["dirty"], ", as stated")
    return _paragraph(
        f"**{about['chip']}**, {about['date'][:10]}, commit `{about['commit'][:12]}`{changed};",
        f"driver {about['driver']}, torch {about['torch']}, triton {about['triton']}.",
    )


def _ops_table(cases: Sequence[Measured]) -> str:
    """Ranges over all problems, types and layouts of each op."""
    lines = []
    for op in dict.fromkeys(case.op for case in cases if CLONE in case.providers):
        of_op = [case for case in cases if case.op == op]
        large = [case for case in of_op if (case.bytes or 0) >= aims.LARGE_BYTES]
        shares = [
            _range([case.share(FUSED, "cold") for case in large if case.pass_ == pass_], tables.share_text)
            for pass_ in ("forward", "backward", "double_backward")
        ]
        times = [_range([case.speedup(name, "cold") for case in of_op], tables.times_text) for name in (EAGER, COMPILE)]
        lines.append([f"`{op}`", *shares, *times])
    if not lines:
        return ""
    head = ["op", "forward", "backward", "double backward", *_TIMES_FASTER]
    legend = _paragraph(
        f"Share of a clone's speed at {aims.LARGE_BYTES // 2**20} MiB and more, by pass; and how many times faster",
        "than eager torch and torch.compile, at every size. Device time with a cold cache, lowest to highest over",
        "problems, types and layouts.",
    )
    return f"{legend}\n\n{_table(head, lines)}"


def _steps_table(cases: Sequence[Measured]) -> str:
    lines = []
    for case in cases:
        if case.whole and not training.is_training(case) and case.us(FUSED, "wall") is not None:
            us = [case.us(name, "wall") for name in (FUSED, FUSED_COMPILE, EAGER, COMPILE)]
            times = [case.speedup(name, "wall") for name in (EAGER, COMPILE)]
            lines.append(
                [
                    f"`{case.op}`",
                    case.problem,
                    case.dtype,
                    case.pass_,
                    *("-" if value is None else f"{value / 1e3:.3g}" for value in us),
                    *("-" if value is None else tables.times_text(value) for value in times),
                ]
            )
    if not lines:
        return ""
    head = ["whole step", "problem", "type", "pass", "fused", "fused, compiled", "eager", "torch.compile"]
    return f"Whole steps, wall time in milliseconds.\n\n{_table([*head, *_TIMES_FASTER], lines)}"


def _training_table(cases: Sequence[Measured]) -> str:
    found = training.training(cases)
    if not found:
        return ""
    return f"{_paragraph(training.LEGEND)}\n\n{_table(training.HEAD, [rates.cells() for rates in found])}"


def _aims(run: Run) -> str:
    verdicts = aims.judge(run.rows)
    missed = [verdict for verdict in verdicts if not verdict.met]
    if not verdicts:
        return ""
    said = f"Aims met: {len(verdicts) - len(missed)} of {len(verdicts)}."
    if not missed:
        return said
    missed.sort(key=lambda verdict: verdict.measured / verdict.wanted)
    lines = [f"- {verdict}" for verdict in missed[:_LISTED]]
    more = [f"- and {len(missed) - _LISTED} more"] if len(missed) > _LISTED else []
    return "\n".join([f"{said} Short of them, furthest first:\n", *lines, *more])


def _range(values: Iterable[float | None], write: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = write(min(known)), write(max(known))
    return low if low == high else f"{low} to {high}"


def _paragraph(*pieces: str) -> str:
    return textwrap.fill(" ".join(pieces), 120)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines))


def _image(run: Run, name: str, to_root: str) -> str:
    return f"![{name} on {run.identity['chip']}]({to_root}{PICTURES.as_posix()}/{run.file(name)})"


def _digest(path: Path) -> str | None:
    """The digest of the rows that a picture was drawn from; ``None`` if it is not there."""
    from PIL import Image

    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get("Description")
