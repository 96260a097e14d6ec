"""Results as tables of 80 columns, as Markdown for the READMEs, and as a picture. No figure in a README is typed."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.measure import COPY
from benchmarks.ops import OPS
from benchmarks.static import passes
from benchmarks.static.bounds import STREAMING

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PICTURES = Path("docs/benchmarks")

Row = Mapping[str, str]

_SHORT = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "contiguous": "nchw",
    "channels_last": "nhwc",
    "forward": "fwd",
    "backward": "bwd",
    "double_backward": "2nd",
}
_HEAD = ("op, problem", "type", "axes", "pass", "us", "copy", "graph", "x eager", "x best", "x wall")
LEGEND = (
    "us: device time with a cold cache; copy: the speed as a share of a copy of the minimum bytes in the same run;",
    "graph: us inside a CUDA graph; x eager, x best, x wall: times as fast as eager torch, as the best other",
    "implementation, and as eager torch in wall time. Medians; a dash was not measured.",
)
_STATIC = (
    "Eager torch → fastgan, forward/backward/second order. Counted: launches, bytes over the minimum, MB kept for "
    "backward. Measured: "
)
_HOST = """\
host cost, without a GPU, as CPU time of a call in units of `leaky_relu(x + bias)`. In
float32. Each launch is counted to move its tensors once, which flatters torch's normalizations. The last columns are
computed: the share of a copy's speed that the compiled kernels reach on an H200
[at most](../benchmarks/README.md#without-a-gpu), in float32, and in bfloat16 channels-last.

No GPU has been measured yet. On one, these commands replace the table by measured rows, op by op:

```
python -m benchmarks evidence --out evidence/mine
python -m benchmarks merge evidence/mine
python -m benchmarks readme
```"""


@dataclass(frozen=True)
class Measured:
    """A case, and its rows by implementation."""

    subject: tuple[str, ...]
    rows: Mapping[str, Row]

    @property
    def is_step(self) -> bool:
        return self.subject[-1] == "step"

    @property
    def is_key(self) -> bool:
        op, problem, *_ = self.subject
        return self.is_step or any(p.key for p in OPS[op].problems if p.name == problem)

    def us(self, implementation: str, mode: str = "device") -> float | None:
        cell = self.rows.get(implementation, {}).get(f"{mode}_us_median", "")
        return float(cell) if cell else None

    def times(self, implementation: str, mode: str = "device") -> float | None:
        """How many times as fast as ``implementation`` the fused op is."""
        fused, other = self.us("fused", mode), self.us(implementation, mode)
        return other / fused if fused and other else None

    @property
    def bytes(self) -> int:
        return int(next(iter(self.rows.values()))["bytes"])

    @property
    def best(self) -> float | None:
        """How many times as fast as the fastest other implementation the fused op is."""
        return min((t for name in self.rows if name not in ("fused", COPY) and (t := self.times(name))), default=None)

    def cells(self) -> list[str]:
        _, problem, dtype, layout, pass_ = self.subject
        share = self.rows.get("fused", {}).get("share_of_copy_device", "")
        figures = (self.us("fused"), self.us("fused", "graph"))
        times = (self.times("eager"), self.best, self.times("eager", "wall"))
        us, graph = ("-" if f is None else f"{f:,.0f}" if f >= 1000 else f"{f:.3g}" for f in figures)
        copy = f"{math.floor(100 * float(share))}%" if share else "-"
        # Rounded down: 0.999 is slower and must not show as 1.00.
        xs = ["-" if t is None else f"{math.floor(t * 100) / 100:.2f}" for t in times]
        return [problem, _SHORT[dtype], _SHORT[layout], _SHORT[pass_], us, copy, graph, *xs]


def measured(rows: Iterable[Row]) -> list[Measured]:
    """The cases of ``rows``, grouped by op; of repeated rows the last one counts."""
    by_case: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(row[column] for column in ("op", "problem", "dtype", "layout", "pass"))
        by_case.setdefault(key, {})[row["implementation"]] = row
    order = list(dict.fromkeys(key[0] for key in by_case))
    return [Measured(key, by_case[key]) for key in sorted(by_case, key=lambda key: order.index(key[0]))]


def lines(rows: Iterable[Row]) -> list[str]:
    """A table for a terminal of 80 columns."""
    rows = list(rows)
    found = measured(rows)
    on_cpu = any(row["device"] == "cpu" for row in rows)
    text = ["Toy sizes on a CPU: this proves that the run works, and says nothing about speed."] * on_cpu
    ops = [case for case in found if not case.is_step]
    if ops:
        table: list[Sequence[str]] = [_HEAD]
        for i, case in enumerate(ops):
            if i == 0 or ops[i - 1].subject[0] != case.subject[0]:
                table.append([case.subject[0], *[""] * (len(_HEAD) - 1)])
            cells = case.cells()
            table.append([f"  {cells[0]}", *cells[1:]])
        # An op's name has a line of its own, so it may be longer than its column.
        widths = [max(len(row[i]) for row in table if any(row[1:])) for i in range(len(_HEAD))]
        text += [
            " ".join(
                c.ljust(w) if i < 4 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
    text += [
        f"{case.subject[0]} {case.subject[1]} {_SHORT[case.subject[2]]}: {_step_text(case)}"
        for case in found
        if case.is_step
    ]
    return text


def short(rows: Iterable[Row]) -> list[str]:
    """One sentence for each case of the fused ops that is slower than its bytes explain.

    Expected are 90% of the speed of a copy, in proportion to the minimum of the bytes that the op moves: rows that are
    read twice count twice. Layers of a spectral norm are small, and their launches are expected in a CUDA graph.
    """
    bound = {(row.op, row.pass_): min(1.0, row.minimum / row.moved) for row in passes.read() if row.dtype == "float32"}
    found = []
    for case in measured(rows):
        op, problem, dtype, layout, pass_ = case.subject
        mode = "graph" if op in ("spectral_normalize", "power_iteration") else "device"
        share = case.rows.get("fused", {}).get(f"share_of_copy_{mode}")
        if share and case.bytes >= STREAMING and float(share) < (expected := 0.9 * bound[op, pass_]):
            found.append(
                f"{op}/{problem}/{dtype}/{layout}/{pass_}: {float(share):.0%} of a copy, expected {expected:.0%}"
            )
    return found


def _step_text(case: Measured) -> str:
    """Images per second of each implementation. A step counts as one batch, however often it updates a network."""
    said = []
    for name, row in case.rows.items():
        if us := case.us(name, "wall"):
            steps, batch, *_ = map(int, row["shape"].split("x"))
            said.append(f"{name} {steps * batch / us * 1e6:,.0f}")
    return f"{', '.join(said)} images/s"


def newest(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of the newest run of each GPU, the newest first."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["device"] != "cpu":
            runs.setdefault((row["date"], row["chip"]), []).append(row)
    of_chip: dict[str, list[Row]] = {}
    for (_, chip), run in sorted(runs.items(), key=lambda item: item[0], reverse=True):
        of_chip.setdefault(chip, run)
    return list(of_chip.values())


def draw(root: Path = results.ROOT, csv: Path = results.REPOSITORY_CSV, *, check: bool = False) -> list[Path]:
    """Writes the results into the READMEs, between their markers, and one picture per chip.

    Args:
        check: write nothing.

    Returns:
        The files whose content changes.

    Raises:
        ValueError: if a README lacks its markers, or there is something to draw and matplotlib is not installed.
    """
    runs = newest(results.read(csv))
    done = {row["op"] for run in runs for row in run}
    differ = []
    for name, every in (("README.md", False), ("kernels/README.md", True)):
        path = root / name
        text = path.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"{name} must have {BEGIN} and, behind it, {END}")
        section = "\n\n".join([*(_markdown(run, every=every) for run in runs), *_static(done, every=every)])
        if text != (new := f"{before}{BEGIN}\n{section}\n{END}{after}"):
            differ.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    for run in [] if check else runs:
        picture(run, root / PICTURES / _file(run))
    return differ


def _markdown(run: Sequence[Row], *, every: bool) -> str:
    """The key problems as Markdown; without ``every`` one line per op, with its largest problem in float32."""
    cases = [case for case in measured(run) if case.is_key]
    ops, steps = ([case for case in cases if case.is_step == step] for step in (False, True))
    chip, date, commit, torch, triton = (run[0][name] for name in ("chip", "date", "commit", "torch", "triton"))
    identity = f"{chip}, {date[:10]}, commit {commit[:12]}, torch {torch}, triton {triton}."
    if not every:
        common = [case for case in ops if case.subject[2:4] == ("float32", "contiguous")]
        largest = {case.subject[0]: case.subject[1] for case in sorted(common, key=lambda case: case.bytes)}
        # A copy's share and times as fast as eager torch, of each pass.
        cells = {op: [case.cells() for case in common if case.subject[:2] == (op, largest[op])] for op in largest}
        lines = [(f"`{op}`", *("/".join(cell[i] for cell in of) for i in (5, 7))) for op, of in cells.items()]
        legend = "Share of a copy's speed, and times as fast as eager torch: float32, forward/backward/second order."
        table = _table(("op", "copy", "x eager"), sorted(lines))
        return "\n\n".join([identity, legend, table, f"![Share of a copy]({PICTURES / _file(run)})"])
    parts = [
        identity,
        " ".join(LEGEND),
        _table(("op", "problem", *_HEAD[1:]), [[f"`{case.subject[0]}`", *case.cells()] for case in ops]),
        "\n".join(f"- `{case.subject[0]}` {case.subject[1]}, {case.subject[2]}: {_step_text(case)}" for case in steps),
    ]
    return "\n\n".join(part for part in parts if part)


def _static(done: set[str], *, every: bool) -> list[str]:
    """What is known without a GPU of the ops that are not ``done``, as Markdown; one line per op."""
    of_op: dict[str, list[passes.Row]] = {}
    for row in passes.read():
        if row.op not in done:
            of_op.setdefault(row.op, []).append(row)
    lines = []
    for op, rows in of_op.items():
        f32, bf16 = ([row for row in rows if (row.dtype, row.layout) == kind] for kind in passes.KINDS)
        eager, ours = (
            [
                "/".join(str(getattr(row, f"{prefix}launches")) for row in f32),
                "/".join(_short(getattr(row, f"{prefix}moved") / row.minimum) for row in f32),
                _short(getattr(f32[0], f"{prefix}kept") / 1e6),
                "/".join(_short(getattr(row, f"{prefix}host")) for row in f32),
            ]
            for prefix in ("eager_", "")
        )
        cells = [f"{before}→{now}" for before, now in zip(eager, ours, strict=True)]
        shares = ["/".join(f"{100 * row.share:.0f}" for row in kind) + "%" for kind in (f32, bf16)]
        lines.append([f"`{op}`", *cells, *([*shares, f32[0].problem] if every else ())])
    head = ("op", "launches", "moved", "kept", "host", *(("f32", "bf16", "problem") if every else ()))
    text = _STATIC + (_HOST if every else "[host cost](kernels/README.md#speed).")
    return [text, _table(head, lines)] if lines else []


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *lines))


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}"


def _file(run: Sequence[Row]) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", run[0]["chip"]) + ".png"


def picture(run: Sequence[Row], path: Path) -> None:
    """Draws the share of a copy's speed over the minimum bytes, float32 forward, fused and eager; one panel per op."""
    try:
        import matplotlib
    except ModuleNotFoundError as missing:
        raise ValueError("the picture needs matplotlib: pip install -e '.[bench]'") from missing
    matplotlib.use("agg")
    from matplotlib import pyplot

    wanted = ("float32", "contiguous", "forward")
    points: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in run:
        if (row["dtype"], row["layout"], row["pass"]) == wanted and row["share_of_copy_device"]:
            point = int(row["bytes"]), float(row["share_of_copy_device"])
            points.setdefault(row["op"], {}).setdefault(row["implementation"], []).append(point)
    height = math.ceil(len(points) / 4)
    figure, fields = pyplot.subplots(height, 4, figsize=(12, 2.4 * height), squeeze=False)
    for field, (op, lines) in zip(fields.flat, points.items(), strict=False):
        for name, line in lines.items():
            if name in ("fused", "eager"):
                field.plot(*zip(*sorted(line), strict=True), "o-", label=name)
        field.set(title=op, xscale="log", ylim=(0, 1.1), xlabel="minimum bytes", ylabel="share of a copy")
    fields.flat[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)
