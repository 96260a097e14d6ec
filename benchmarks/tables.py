"""Rows of results.csv as cases, and the cases as a table in the terminal.

Everything here takes rows as :func:`benchmarks.results.read` gives them: every cell a string, empty where nothing was
measured. A figure that is missing is ``None`` here and a dash in a table, never a zero.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import registry
from benchmarks.old_ops import OPS
from benchmarks.results import IDENTITY

if TYPE_CHECKING:
    from rich.table import Table

FUSED, FUSED_COMPILE, EAGER, COMPILE = "fused", "fused_compile", "eager", "compile"
VENDOR, CLONE, LIMIT = "vendor", "clone", "limit"
PASSES = (*registry.PASSES, "step", "sample")
GPUS = ("cuda", "rocm")
# The types and layouts in which every provider is measured, in the order in which pictures show them.
KINDS = (("float32", "contiguous"), ("bfloat16", "contiguous"), ("bfloat16", "channels_last"))

Row = Mapping[str, str]
Kind = tuple[str, str]

_TITLE = (
    "fused: time, share of a clone's speed, times faster (cold cache; whole steps, and than eager at last: wall time)"
)
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "contiguous": "nchw", "channels_last": "nhwc"}
_SHORT_PASS = {"forward": "fwd", "backward": "bwd", "double_backward": "2nd bwd"}


@dataclass(frozen=True)
class Measured:
    """A case, and the row of each provider that was timed on it."""

    op: str
    problem: str
    shape: str
    dtype: str
    layout: str
    pass_: str
    providers: Mapping[str, Row]

    @property
    def kind(self) -> Kind:
        return self.dtype, self.layout

    @property
    def bytes(self) -> float | None:
        """The floor: a property of the problem, the same in every row."""
        return next((number(row, "bytes") for row in self.providers.values()), None)

    @property
    def whole(self) -> bool:
        """Whether this is a step or a part of a model, which has no floor, no clone, and no time with a cold cache."""
        return self.bytes is None

    @property
    def mode(self) -> str:
        """The mode in which providers are compared unless another one is asked for."""
        return "wall" if self.whole else "cold"

    def figure(self, provider: str | None, column: str) -> float | None:
        return number(self.providers.get(provider or "", {}), column)

    def us(self, provider: str | None, mode: str) -> float | None:
        """The median in microseconds; ``mode`` is one of :data:`benchmarks.results.MODES`."""
        return self.figure(provider, f"{mode}_us_median")

    def speedup(self, provider: str | None, mode: str) -> float | None:
        """How many times faster ``fused`` is than ``provider``."""
        return ratio(self.us(provider, mode), self.us(FUSED, mode))

    def share(self, provider: str | None, mode: str) -> float | None:
        """The share of a clone's speed; ``mode`` is cold or graph."""
        return self.figure(provider, f"share_of_clone_{mode}")

    def vendor(self, mode: str) -> str | None:
        """The fastest of the vendors, by name."""
        timed = {name: us for name in self.providers if name.startswith(VENDOR) and (us := self.us(name, mode))}
        return min(timed, key=timed.__getitem__, default=None)

    def rival(self, provider: str, mode: str) -> str | None:
        """``provider`` itself, or for "vendor" the fastest of them."""
        return self.vendor(mode) if provider == VENDOR else provider


@dataclass(frozen=True)
class Limits:
    """What the chip gave in the same run: bytes a second, operations a second, microseconds of an empty kernel."""

    bandwidth: float | None
    products: Mapping[str, float]
    empty_us: Mapping[str, float]

    @property
    def launch_us(self) -> float | None:
        """The least that one launch takes on the device: inside a CUDA graph, or where none was captured, by events."""
        return self.empty_us.get("graph", self.empty_us.get("warm"))

    def lines(self) -> list[str]:
        """One sentence a limit, for people."""
        said = [] if self.bandwidth is None else [f"fastest copy: {self.bandwidth / 1e9:,.0f} GB/s"]
        said += [f"matrix product, {name}: {rate / 1e12:,.1f} TFLOP/s" for name, rate in self.products.items()]
        where = {"warm": "between two events", "graph": "inside a CUDA graph", "wall": "wall time of an eager call"}
        return said + [f"empty kernel: {us:.2f} µs {where[mode]}" for mode, us in self.empty_us.items()]


def number(row: Row, column: str) -> float | None:
    return float(cell) if (cell := row.get(column, "")) else None


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def measured(rows: Iterable[Row]) -> list[Measured]:
    """The cases in ``rows`` without the machine's limits, ops together, in the order in which they first appear.

    A case that stands there twice counts as it was measured last.
    """
    by_case: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row["op"] != LIMIT:
            key = tuple(row[column] for column in ("op", "problem", "shape", "dtype", "layout", "pass"))
            by_case.setdefault(key, {})[row["provider"]] = row
    ops = list(dict.fromkeys(key[0] for key in by_case))
    return [Measured(*key, by_case[key]) for op in ops for key in by_case if key[0] == op]


def limits(rows: Iterable[Row]) -> Limits:
    """The rows of op "limit"; what was not measured is absent."""
    copies, products, empty = [], {}, {}
    for row in rows:
        if row["op"] != LIMIT:
            continue
        if row["problem"].startswith("copy"):
            copies.append(number(row, "gb_per_s"))
        elif row["problem"].startswith("matmul"):
            name = "tf32" if row["problem"].endswith("tf32") else row["dtype"]
            if (rate := ratio(number(row, "operations"), number(row, "warm_us_median"))) is not None:
                products[name] = rate * 1e6
        elif row["problem"] == "empty_kernel":
            empty = {mode: us for mode in ("warm", "graph", "wall") if (us := number(row, f"{mode}_us_median"))}
    known = [rate for rate in copies if rate is not None]
    return Limits(max(known) * 1e9 if known else None, products, empty)


def key_cases(cases: Iterable[Measured]) -> list[Measured]:
    """Those by which an op is judged: the registry's key problems, and whatever is no op of the registry."""
    keys = {op.name: {p.name for p in (*op.problems, *op.toy_problems) if p.key} for op in OPS}
    return [case for case in cases if case.problem in keys.get(case.op, {case.problem})]


def kinds(cases: Iterable[Measured]) -> list[Kind]:
    """Of types and layouts the common ones that were measured, or all if none of these was."""
    found = dict.fromkeys(case.kind for case in cases)
    return [kind for kind in KINDS if kind in found] or list(found)


def kind_name(kind: Kind) -> str:
    return " ".join(_SHORT.get(part, part) for part in kind)


def identity(rows: Iterable[Row]) -> dict[str, str]:
    """The columns that tell where ``rows`` come from.

    Raises:
        ValueError: if there are no rows, or if they come from several runs.
    """
    found = list(dict.fromkeys(tuple(row[name] for name in IDENTITY) for row in rows))
    if len(found) != 1:
        raise ValueError(f"the rows are of {len(found)} runs, expected those of one")
    return dict(zip(IDENTITY, found[0], strict=True))


def warning(identity: Mapping[str, str]) -> str | None:
    """What must stand above the figures of anything but a GPU."""
    if identity["device"] in GPUS:
        return None
    if identity["device"] == "cpu":
        return "Toy size on a CPU: this proves that the run works, and says nothing about speed."
    return f"Not measured on a GPU: the device of these figures is {identity['device']!r}."


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, the value of a case, and how a value is written (a key of :data:`_WRITTEN`)."""

    heading: str
    value: Callable[[Measured], float | str | None]
    unit: str = "text"

    def cell(self, case: Measured) -> str:
        value = self.value(case)
        return "-" if value is None or value == "" else _WRITTEN[self.unit](value)

    def slower(self, case: Measured) -> bool:
        """Whether this is a comparison that ``fused`` loses."""
        return self.unit == "times" and (value := self.value(case)) is not None and value < 1


def us_text(us: float) -> str:
    return f"{us:,.0f}" if us >= 1000 else f"{us:.3g}" if us >= 100 else f"{us:.1f}" if us >= 10 else f"{us:.2f}"


def times_text(times: float) -> str:
    # Down, never up: 0.999 is slower.
    digits = 0 if times >= 100 else 1 if times >= 10 else 2 if times >= 0.1 else 4
    return f"{math.floor(times * 10**digits) / 10**digits:.{digits}f}"


def share_text(share: float) -> str:
    return f"{math.floor(100 * share)}%"


_WRITTEN: dict[str, Callable[..., str]] = {
    "text": str,
    "us": us_text,
    "share": share_text,
    "times": times_text,
    "MB": lambda count: f"{count / 1e6:,.3g}" if count < 1e9 else f"{count / 1e6:,.0f}",
    "count": lambda count: f"{count:,.0f}",
}


def columns(cases: Iterable[Measured], *, compact: bool) -> list[Column]:
    """The columns for ``cases``: compact for a terminal; in full with a column for each provider and the quartiles."""
    head = [
        Column("type", lambda case: kind_name(case.kind)),
        Column("pass", lambda case: _SHORT_PASS.get(case.pass_, case.pass_)),
    ]
    if compact:
        return [
            *head,
            *(Column(f"{mode} µs", _us(FUSED, mode), "us") for mode in ("cold", "graph", "wall")),
            Column("clone", _share("cold"), "share"),
            *(Column(name, _speedup(name), "times") for name in (EAGER, COMPILE, VENDOR)),
            Column("wall", _speedup(EAGER, "wall"), "times"),
        ]
    rivals = sorted({p for case in cases for p in case.providers} - {FUSED, CLONE}, key=_rank)
    return [
        Column("shape", lambda case: case.shape),
        *head,
        Column("floor MB", lambda case: case.bytes, "MB"),
        Column("cold µs", _us(FUSED, "cold"), "us"),
        Column("quartiles", _quartiles),
        *(Column(f"{mode} µs", _us(FUSED, mode), "us") for mode in ("warm", "graph", "wall")),
        Column("clone, cold", _share("cold"), "share"),
        Column("clone, graph", _share("graph"), "share"),
        Column("GB/s", lambda case: case.figure(FUSED, "gb_per_s"), "count"),
        Column("peak MB", lambda case: case.figure(FUSED, "peak_bytes"), "MB"),
        Column("launches", lambda case: case.figure(FUSED, "launches"), "count"),
        *(
            Column(f"{name}, {mode}", _speedup(name, mode), "times")
            for name in rivals
            for mode in ("cold", "graph", "wall")
        ),
    ]


def table(rows: Iterable[Row], *, compact: bool = True) -> "Table":
    """The cases of ``rows``, of one run, for rich to print: ``fused``, its share of a clone's speed, and how many times
    faster it is.

    ``compact`` fits 120 columns; otherwise every figure of ``fused`` and a ratio to each provider in each mode. Where
    ``fused`` loses, the ratio is red.
    """
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    cases = measured(rows)
    shown = columns(cases, compact=compact)
    title = Text(_TITLE)
    if rows and (said := warning(rows[0])):
        title = Text.assemble((said, "bold red"), "\n", title)
    out = Table(title=title, box=None, padding=(0, 1, 0, 0), title_justify="left", title_style="", header_style="bold")
    out.add_column("op and problem", no_wrap=True)
    for column in shown:
        out.add_column(column.heading, justify="left" if column.unit == "text" else "right", no_wrap=True)
    op = None
    for case in cases:
        if case.op != op:
            op = case.op
            out.add_row(Text(op, "bold"))
        cells = [Text(column.cell(case), "red" if column.slower(case) else "") for column in shown]
        out.add_row(f"  {case.problem}", *cells)
    return out


def text(rows: Iterable[Row], *, compact: bool = True) -> list[str]:
    """:func:`table` as lines of plain text, below the machine's limits; needs no rich."""
    rows = list(rows)
    cases = measured(rows)
    above = [*([said] if rows and (said := warning(rows[0])) else []), *limits(rows).lines()]
    if not cases:
        return [*above, "no case was measured"]
    shown = columns(cases, compact=compact)
    lines = [["op and problem", *(column.heading for column in shown)]]
    op = None
    for case in cases:
        if case.op != op:
            op = case.op
            lines.append([op, *("" for _ in shown)])
        lines.append([f"  {case.problem}", *(column.cell(case) for column in shown)])
    left = [True, *(column.unit == "text" for column in shown)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = (
        " ".join(c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(cells, widths, left, strict=True))
        for cells in lines
    )
    return [*above, _TITLE, *(line.rstrip() for line in padded)]


def _us(provider: str, mode: str) -> Callable[[Measured], float | None]:
    return lambda case: case.us(provider, mode)


def _share(mode: str) -> Callable[[Measured], float | None]:
    return lambda case: case.share(FUSED, mode)


def _speedup(provider: str, mode: str | None = None) -> Callable[[Measured], float | None]:
    return lambda case: case.speedup(case.rival(provider, mode or case.mode), mode or case.mode)


def _quartiles(case: Measured) -> str | None:
    low, high = (case.figure(FUSED, f"{case.mode}_us_{part}") for part in ("q1", "q3"))
    return None if low is None or high is None else f"{us_text(low)}-{us_text(high)}"


def _rank(provider: str) -> tuple[int, str]:
    order = (EAGER, COMPILE, FUSED_COMPILE)
    return (order.index(provider) if provider in order else len(order)), provider
