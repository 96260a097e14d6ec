"""Pictures of results: share of the limit against size, speed-ups, and what a step's time is made of.

Each function takes rows of one run and returns a matplotlib ``Figure``, or ``None`` where the rows have nothing to
show; :func:`save` writes it. A cell that is empty is a gap in the picture. Needs ``pip install -e ".[bench]"``.
"""

import importlib.util
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import tables
from benchmarks.tables import CLONE, COMPILE, EAGER, FUSED, VENDOR, Kind, Measured, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any colour vision tell apart; the markers do without colour.
_LOOKS = {
    FUSED: ("#0072B2", "o"),
    EAGER: ("#E69F00", "s"),
    COMPILE: ("#009E73", "^"),
    VENDOR: ("#CC79A7", "D"),
    CLONE: ("#777777", "x"),
}
_NAMES = {FUSED: "fused (fastgan)", EAGER: "eager torch", COMPILE: "torch.compile", VENDOR: "best vendor op"}
# The kinds of benchmarks/breakdown.py, in the order in which they are stacked.
_PARTS = {
    "fastgan": "#0072B2",
    "convolution": "#56B4E9",
    "matrix product": "#009E73",
    "normalisation": "#F0E442",
    "compiled": "#444444",
    "other": "#E69F00",
    "optimizer": "#CC79A7",
    "copies": "#D55E00",
    "idle": "#DDDDDD",
}
_UNKNOWN_PART = "#999999"
_MODES = {"cold": "device time, cold cache", "graph": "inside a CUDA graph", "wall": "wall time of an eager call"}
_PART = r"([^=]+)=([0-9.e+-]+)(?: |$)"
_WIDTH = 10.0  # inches; at 150 dots an inch twice the width of a README's column
_FONT = 9


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def save(figure: "Figure", path: Path, *, description: str = "") -> None:
    """Writes a PNG with a palette, which takes a third of the bytes; ``description`` goes into its metadata."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    about = PngInfo()
    about.add_text("Description", description)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True, pnginfo=about)


def share_against_size(rows: Iterable[Row], op: str, *, kinds: Sequence[Kind] | None = None) -> "Figure | None":
    """How near each provider comes to the limit with a cold cache, against the bytes that must move: a row of panels
    for each type and layout of ``kinds`` (default: :func:`benchmarks.tables.kinds`), a panel for each pass.

    With the machine's limits among the rows, 100% is the fastest copy measured, and a curve shows the best share that
    a single launch leaves: at s bytes, (s / bandwidth) / max(s / bandwidth, launch). The clone, which obeys the same
    floor, is drawn beside the providers. Without limits the share is that of the clone of the same size.
    """
    rows = list(rows)
    cases = [case for case in tables.measured(rows) if case.op == op and case.bytes]
    passes = [pass_ for pass_ in tables.PASSES if any(case.pass_ == pass_ for case in cases)]
    shown = [kind for kind in kinds or tables.kinds(cases) if any(case.kind == kind for case in cases)]
    if not passes or not shown:
        return None
    limits = tables.limits(rows)
    of_copy = limits.bandwidth is not None

    figure = _figure(_WIDTH, 1.1 + 2.0 * len(shown))
    grid = figure.subplots(len(shown), len(passes), sharex=True, sharey=True, squeeze=False)
    top = 1.1
    for axes_of_kind, kind in zip(grid, shown, strict=True):
        for axes, pass_ in zip(axes_of_kind, passes, strict=True):
            panel = sorted((c for c in cases if c.kind == kind and c.pass_ == pass_), key=lambda case: case.bytes)
            axes.axhline(
                1, color="black", linewidth=0.8, linestyle=":", label=_full_share(limits), gid="bandwidth_floor"
            )
            for layer, (provider, (colour, marker)) in enumerate(_LOOKS.items()):
                shares = [_share(case, provider, limits) for case in panel]
                if (provider == CLONE and not of_copy) or all(map(math.isnan, shares)):
                    continue
                label = "clone of the same bytes" if provider == CLONE else _NAMES[provider]
                sizes = [case.bytes for case in panel]
                style = {
                    "linewidth": 1.8 if provider == FUSED else 1.0,
                    "markersize": 4.5,
                    "label": label,
                    "zorder": 9 - layer,
                }
                axes.plot(sizes, shares, color=colour, marker=marker, gid=provider, **style)
                top = max(top, 1.08 * max(share for share in shares if not math.isnan(share)))
            axes.set_title(f"{pass_.replace('_', ' ')}, {tables.kind_name(kind)}", fontsize=_FONT)
    _bytes_axis(grid)
    grid[0, 0].set_ylim(0, top)
    grid[0, 0].yaxis.set_major_formatter("{x:.0%}")
    if of_copy:
        for axes in grid.flat:
            _launch_floor(axes, limits)
    against = "share of copy bandwidth" if of_copy else "share of a clone's speed"
    for axes in grid[:, 0]:
        axes.set_ylabel(against)
    for axes in grid[-1]:
        axes.set_xlabel("bytes that must move at least")
    _finish(figure, grid.flat, f"{op}: share of the limit, {_MODES['cold']}", rows[0])
    return figure


def speedups(cases: Sequence[Measured], *, title: str, mode: str = "cold") -> "Figure | None":
    """How many times faster ``fused`` is than eager, torch.compile and the fastest vendor op: a panel for each pass, a
    group of bars for each op, problem, type and layout in ``cases``; logarithmic, bars begin at 1x."""
    passes = [pass_ for pass_ in tables.PASSES if any(case.pass_ == pass_ for case in cases)]
    rivals = [
        rival
        for rival in (EAGER, COMPILE, VENDOR)
        if any(case.speedup(case.rival(rival, mode), mode) is not None for case in cases)
    ]
    if not rivals:
        return None
    one_op, one_kind = len({case.op for case in cases}) == 1, len({case.kind for case in cases}) == 1
    groups = list(dict.fromkeys((case.op, case.problem, case.kind) for case in cases))
    by_group = {((case.op, case.problem, case.kind), case.pass_): case for case in cases}

    figure = _figure(_WIDTH, 1.3 + 0.19 * len(groups) * (len(rivals) + 0.8))
    (panels,) = figure.subplots(1, len(passes), sharex=True, sharey=True, squeeze=False)
    thickness = 0.84 / len(rivals)
    for axes, pass_ in zip(panels, passes, strict=True):
        axes.set_xscale("log")
        for place, rival in enumerate(rivals):
            found = [by_group.get((group, pass_)) for group in groups]
            values = [math.nan if (v := _speedup(case, rival, mode)) is None else v for case in found]
            heights = [row + (place - (len(rivals) - 1) / 2) * thickness for row in range(len(groups))]
            widths = [value - 1 for value in values]
            axes.barh(
                heights,
                widths,
                0.9 * thickness,
                left=1,
                color=_LOOKS[rival][0],
                label=f"fastgan against {_NAMES[rival]}",
            )
            for value, height in zip(values, heights, strict=True):
                if not math.isnan(value):
                    side, shift = ("left", 2) if value >= 1 else ("right", -2)
                    axes.annotate(
                        tables.times_text(value),
                        (value, height),
                        xytext=(shift, 0),
                        textcoords="offset points",
                        ha=side,
                        va="center",
                        fontsize=_FONT - 2,
                    )
        axes.axvline(1, color="black", linewidth=1)
        axes.axvspan(1e-9, 1, color="#f3f3f3", zorder=0)  # slower
        axes.set_title(pass_.replace("_", " "), fontsize=_FONT)
        axes.set_xlabel("times faster")
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
    finite = [v for case in cases for rival in rivals if (v := _speedup(case, rival, mode)) is not None]
    low, high = min(1, *finite), max(1, *finite)
    room = max(1.6, (high / low) ** 0.2)  # for the numbers beside the bars
    panels[0].set_xlim(0.8 if low == 1 else low / room, high * room)
    _times_axis(panels[0])
    panels[0].set_yticks(
        range(len(groups)),
        [
            (problem if one_op else f"{op}\n{problem}") + ("" if one_kind else f"\n{tables.kind_name(kind)}")
            for op, problem, kind in groups
        ],
    )
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    if one_kind:
        title = f"{title}, {tables.kind_name(cases[0].kind)}"
    _finish(figure, panels, f"{title}: how many times faster, {_MODES[mode]}", next(iter(cases[0].providers.values())))
    return figure


def steps(rows: Iterable[Row]) -> "Figure | None":
    """What the device does in a step: for each step a panel, for each provider a bar, stacked from ``parts_us``, with
    the number of launches beside it."""
    cases = [case for case in tables.measured(rows) if case.pass_ == "step"]
    bars = [(case, {p: parts for p, row in case.providers.items() if (parts := parse_parts(row))}) for case in cases]
    bars = [(case, of_providers) for case, of_providers in bars if of_providers]
    if not bars:
        return None
    found = {name for _, of_providers in bars for parts in of_providers.values() for name in parts}
    *known, last = _PARTS
    names = [name for name in (*known, *sorted(found - set(_PARTS)), last) if name in found]

    counts = [len(of_providers) for _, of_providers in bars]
    figure = _figure(_WIDTH, 0.9 + sum(0.75 + 0.3 * count for count in counts))
    panels = figure.subplots(len(bars), 1, squeeze=False, height_ratios=[0.8 + count for count in counts])[:, 0]
    for axes, (case, of_providers) in zip(panels, bars, strict=True):
        order = sorted(of_providers, key=lambda name: (not name.startswith(FUSED), name))
        totals = {provider: sum(of_providers[provider].values()) / 1e3 for provider in order}
        left = dict.fromkeys(order, 0.0)
        for name in names:
            widths = [of_providers[provider].get(name, 0.0) / 1e3 for provider in order]
            colour = _PARTS.get(name, _UNKNOWN_PART)
            axes.barh(order, widths, 0.75, left=list(left.values()), color=colour, label=name, edgecolor="white")
            left = {provider: left[provider] + width for provider, width in zip(order, widths, strict=True)}
        for place, provider in enumerate(order):
            launches = case.figure(provider, "launches")
            said = f" {totals[provider]:.3g} ms" + (f", {launches:,.0f} launches" if launches is not None else "")
            axes.text(totals[provider], place, said, va="center", fontsize=_FONT - 1)
        axes.set_xlim(0, 1.28 * max(totals.values()))
        axes.invert_yaxis()
        axes.set_title(f"{case.op} {case.problem}, {tables.kind_name(case.kind)}", fontsize=_FONT, loc="left")
        axes.grid(axis="x", color="#e5e5e5")
        axes.set_axisbelow(True)
    panels[-1].set_xlabel("time of a step, ms")
    _finish(figure, panels, "Where the time of a step goes", next(iter(cases[0].providers.values())))
    return figure


def parse_parts(row: Row) -> dict[str, float]:
    """``parts_us`` as microseconds by name; empty if it was not measured.

    Raises:
        ValueError: for a cell that is not of the form "convolution=12.3 matrix product=3".
    """
    if not re.fullmatch(rf"({_PART})*", row["parts_us"]):
        raise ValueError(f"parts_us is {row['parts_us']!r}, expected NAME=MICROSECONDS ...")
    return {name: float(us) for name, us in re.findall(_PART, row["parts_us"])}


def _share(case: Measured, provider: str, limits: tables.Limits) -> float:
    provider = case.rival(provider, "cold")
    if limits.bandwidth is None:
        share = case.share(provider, "cold")
    else:
        share = tables.ratio(case.bytes / limits.bandwidth * 1e6, case.us(provider, "cold"))
    return math.nan if share is None else share


def _speedup(case: Measured | None, rival: str, mode: str) -> float | None:
    return None if case is None else case.speedup(case.rival(rival, mode), mode)


def _full_share(limits: tables.Limits) -> str:
    if limits.bandwidth is None:
        return "bandwidth floor: clone of the same bytes"
    return f"bandwidth floor: fastest copy, {limits.bandwidth / 1e12:.3g} TB/s"


def _launch_floor(axes: "Axes", limits: tables.Limits) -> None:
    if (launch := limits.launch_us) is None:
        return
    low, high = axes.get_xlim()
    sizes = [low * (high / low) ** (i / 200) for i in range(201)]
    least = [size / limits.bandwidth * 1e6 for size in sizes]
    best = [us / max(us, launch) for us in least]
    label = f"launch floor: best share that one launch of {launch:.2g} µs leaves"
    axes.plot(sizes, best, color="black", linewidth=0.9, linestyle="--", label=label, gid="launch_floor")
    axes.fill_between(sizes, best, 10, color="#f3f3f3", linewidth=0, zorder=0)
    axes.set_xlim(low, high)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise ValueError('pictures need matplotlib: pip install -e ".[bench]"') from missing
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bytes_axis(grid: "Sequence[Sequence[Axes]]") -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    for axes in (axes for of_kind in grid for axes in of_kind):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
        axes.xaxis.set_major_formatter(EngFormatter("B", sep=" "))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(labelsize=_FONT - 1)
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)


def _times_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < 100 else (1,), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(figure: "Figure", panels: "Iterable[Axes]", title: str, row: Row) -> None:
    """Title with the chip, sizes of letters, and one legend for all panels."""
    handles: dict[str, object] = {}
    for axes in panels:
        axes.tick_params(labelsize=_FONT - 1)
        axes.xaxis.label.set_size(_FONT)
        axes.yaxis.label.set_size(_FONT)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    names = sorted(handles, key=lambda label: "floor" in label)
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside lower center",
        ncols=min(4, len(names)),
        fontsize=_FONT - 1,
        frameon=False,
    )
    warning = tables.warning(row)
    figure.suptitle(
        f"{title}\n{warning or row['chip']}", fontsize=_FONT + 1, color="black" if warning is None else "#b00020"
    )
