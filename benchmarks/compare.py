"""What moved between two runs of the benchmark, beyond noise.

The noise is taken from the runs themselves. What a run cannot see of its own error (another clock, another place in
memory, a busy neighbour) shows in the providers that are not ours: their code is the same in both runs, so whatever
their figures did, the machine did.
"""

import math
import statistics
from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks import results
from benchmarks.measure import CLONE
from benchmarks.timing import MIN_ROUNDS

FUSED = "fused"
JUDGED = ("cold", "graph", "wall")  # warm is told, but nothing is held to it: what is in cache depends on what ran last
SMALLEST = 0.03  # the least change worth telling: the aims are set in steps of 5%, nobody acts on less than this
SMALLEST_ON_CPU = (
    3.0  # on a CPU the figures are an interpreter's, which gets the share that other work leaves: factor 4
)
FALSE_ALARMS = 0.01  # how many are expected in a whole comparison of equal runs, all its cases and modes together
MIN_CONTROLS = 20  # with fewer figures of other providers the drift of the machine is not known ...
UNKNOWN_DRIFT = 0.10  # ... and is taken to be this
PEAK_GROWTH = 1.05

_NEIGHBOURS = 100  # short kernels are noisier: a spread is that of the controls that take about as long
_LEAST_ERROR = 0.003  # no figure is known better than this, however its samples agree
_LISTED = 40  # lines of a kind before "and n more"

Subject = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """The rows of one run by subject, and the cells in which its rows agree."""

    path: Path
    identity: Mapping[str, str]
    rows: Mapping[Subject, Mapping[str, str]]


@dataclass(frozen=True)
class Move:
    """A figure of a fused op that changed by more than noise explains.

    ``ratio`` is after over before with the drift of the machine taken off; within 1 / (1 + bound) to 1 + bound it
    would be noise.
    """

    case: str
    mode: str
    before_us: float
    after_us: float
    ratio: float
    bound: float

    def __str__(self) -> str:
        return (
            f"{self.case}  {self.mode}  {self.before_us:.2f} -> {self.after_us:.2f} us  "
            f"x{self.ratio:.3f}  (noise {self.bound:.1%})"
        )


@dataclass(frozen=True)
class Growth:
    """Peak memory of a fused op that grew by more than 5%."""

    case: str
    before_bytes: float
    after_bytes: float

    def __str__(self) -> str:
        return f"{self.case}  {self.before_bytes:.0f} -> {self.after_bytes:.0f} bytes"


@dataclass(frozen=True)
class Drift:
    """What the machine did to one mode: the median change of the controls, and the spread of nine in ten around it."""

    mode: str
    controls: int
    median: float
    spread: float


@dataclass(frozen=True)
class Comparison:
    """Moves are worst first. ``lost`` are fused rows and figures that A has and B has not; ``gone`` those of others."""

    a: Run
    b: Run
    judged: int
    unjudged: int
    drifts: tuple[Drift, ...]
    slower: tuple[Move, ...]
    faster: tuple[Move, ...]
    warm: tuple[Move, ...]
    grown: tuple[Growth, ...]
    lost: tuple[str, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 if a fused op is slower beyond noise, or has lost a row or a figure; else 0."""
        return int(bool(self.slower or self.lost))


def compare(a: Path, b: Path) -> Comparison:
    """Compares two runs. Rows are matched by op, problem, shape, dtype, layout, pass and provider.

    A file may hold several runs (those that agree in date, commit and machine), as the repository's table does. B is
    then its newest run, and A the newest of its file that was taken on B's chip and is not that very run: the same
    file twice compares its newest run with the one before.

    Args:
        a, b: before and after; a CSV of results, or a folder that holds a ``results.csv``.

    Raises:
        ValueError: if a file has other columns, no rows, or cells that are no figures; if A was measured on another
            chip, or holds nothing but the run that is B.
        OSError: if a file cannot be read.
    """
    before, after = _runs(a), _runs(b)
    newest = after[-1]
    machine = _machine(newest)
    there = [run for run in before if _machine(run) == machine]
    if not there:
        chips = ", ".join(sorted({_machine(run) for run in before}))
        raise ValueError(f"{a} was measured on {chips}, {b} on {machine}: different chips cannot be compared")
    others = [run for run in there if run.identity != newest.identity]
    if not others:
        raise ValueError(
            f"{a} holds no other run on {machine} than the one of {newest.identity['date']} that is in {b}"
        )
    return compare_runs(others[-1], newest)


def compare_runs(a: Run, b: Run) -> Comparison:
    """The comparison itself, of two runs on the same chip.

    Of each mode the change of a figure is the logarithm of after over before. From a fused op's is taken the median
    change of the controls (eager, vendor, clone), which is what the machine did: of those in its own case, which were
    measured in turn with it, or of all in the run, whichever tells more at this length of time. What remains counts if
    it is more than :data:`SMALLEST` and more than

        tail * scale * error

    ``error`` is what the two runs know of it themselves: the standard errors of the two medians (from quartiles and
    sample counts), the clock's step, and 0.3%. ``scale`` is how many times their own error the controls moved, in the
    median of the 100 that take about as long. ``tail`` makes it a bound: all comparisons together are to raise
    :data:`FALSE_ALARMS` false alarms (Bonferroni), so it is the quantile that many controls would pass, their
    distribution continued exponentially from its 90th and 99th percentile, and at least that of a normal distribution.
    """
    figures = {
        mode: {
            subject: (before, after)
            for subject in a.rows.keys() & b.rows.keys()
            if (before := _figure(a, subject, mode)) and (after := _figure(b, subject, mode))
        }
        for mode in results.MODES
    }
    fused = {mode: {s: pair for s, pair in of.items() if s[-1] == FUSED} for mode, of in figures.items()}
    judged = {mode: {s: pair for s, pair in of.items() if _enough(pair)} for mode, of in fused.items()}
    comparisons = sum(map(len, judged.values()))
    chance = FALSE_ALARMS / max(1, comparisons)
    smallest = SMALLEST_ON_CPU if a.identity["device"] == "cpu" else SMALLEST

    drifts, moves = [], []
    for mode in results.MODES:
        noise = _Noise({s: pair for s, pair in figures[mode].items() if _enough(pair)}, chance)
        if noise.controls > 1:
            drifts.append(noise.drift(mode))
        for subject, (before, after) in judged[mode].items():
            change, bound = noise.judge(subject, (before, after), smallest)
            if abs(change) > bound:
                sizes = math.exp(change), math.expm1(bound)
                moves.append(Move(_case(subject), mode, before.median, after.median, *sizes))
    moves.sort(key=lambda move: (-move.ratio, move.case, move.mode))
    held = [move for move in moves if move.mode in JUDGED]

    missing = sorted(a.rows.keys() - b.rows.keys())
    figures_lost = [
        f"{_case(subject)} ({mode})"
        for mode in JUDGED
        for subject in sorted(a.rows.keys() & b.rows.keys())
        if subject[-1] == FUSED and _figure(a, subject, mode) and not _figure(b, subject, mode)
    ]
    return Comparison(
        a,
        b,
        judged=comparisons,
        unjudged=sum(map(len, fused.values())) - comparisons,
        drifts=tuple(drifts),
        slower=tuple(move for move in held if move.ratio > 1),
        faster=tuple(move for move in reversed(held) if move.ratio < 1),
        warm=tuple(move for move in moves if move.mode not in JUDGED),
        grown=tuple(_grown(a, b)),
        lost=(*(_named(subject) for subject in missing if subject[-1] == FUSED), *figures_lost),
        gone=tuple(_named(subject) for subject in missing if subject[-1] != FUSED),
        new=tuple(map(_named, sorted(b.rows.keys() - a.rows.keys()))),
    )


def report(comparison: Comparison) -> str:
    """The comparison in words, one line a figure, worst first; the verdict is the last line."""
    a, b = comparison.a, comparison.b
    lines = [f"A: {_about(a)}", f"B: {_about(b)}", f"both on {_machine(b)}"]
    if b.identity["device"] == "cpu":
        lines.append(
            "MEASURED ON A CPU: this says nothing about the kernels' speed; told is what changed by more than a factor "
            f"of {1 + SMALLEST_ON_CPU:g}"
        )
    changed = [
        f"{name} {a.identity[name] or 'unknown'} -> {b.identity[name] or 'unknown'}"
        for name in ("torch", "triton", "driver")
        if a.identity[name] != b.identity[name]
    ]
    if changed:
        lines.append(f"not the same software: {', '.join(changed)}; it may have moved what is listed, and the controls")
    lines.append("drift of the machine, by the providers that are not ours (it is taken off each ratio):")
    lines += [_drift_line(drift) for drift in comparison.drifts] or ["  not known: hardly any of them in both runs"]

    said: list[tuple[str, Sequence[object]]] = [
        ("slower beyond noise", comparison.slower),
        ("fused, in A but not in B", comparison.lost),
        ("peak memory grew", comparison.grown),
        ("faster beyond noise", comparison.faster),
        ("moved with warm caches (not judged)", comparison.warm),
        ("other providers, in A but not in B", comparison.gone),
        ("in B but not in A", comparison.new),
    ]
    for title, items in said:
        if items:
            lines.append(f"{title}: {len(items)}")
            lines += [f"  {item}" for item in items[:_LISTED]]
            if len(items) > _LISTED:
                lines.append(f"  and {len(items) - _LISTED} more")
    if comparison.unjudged:
        lines.append(f"{comparison.unjudged} figures of fewer than {MIN_ROUNDS} samples were not judged")
    verdict = f"{len(comparison.slower)} slower, {len(comparison.faster)} faster, {len(comparison.lost)} lost"
    lines.append(f"of {comparison.judged} figures of fused ops: {verdict}")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Figure:
    """A median in microseconds, and its standard error over it."""

    quartiles: tuple[float, float, float]
    samples: int

    @property
    def median(self) -> float:
        return self.quartiles[1]

    @property
    def error(self) -> float:
        # Of a normal distribution: 1.25 sigma / sqrt(n), with sigma = IQR / 1.35. The notch of a box plot, 1.57 IQR /
        # sqrt(n), is 1.7 of it. Quartiles are deaf to outliers.
        return 0.93 * (self.quartiles[2] - self.quartiles[0]) / math.sqrt(self.samples) / self.median


Pair = tuple[_Figure, _Figure]


class _Noise:
    """How far a figure of one mode moves by itself from one of the two runs to the other."""

    def __init__(self, figures: Mapping[Subject, Pair], chance: float) -> None:
        self._z = _z(chance)
        self._step = _timer_step(figures.values())
        controls = [
            (subject[:-1], _time(pair), _change(pair), self._error(pair))
            for subject, pair in figures.items()
            if _is_control(subject[-1])
        ]
        self.controls = len(controls)
        self._median = statistics.median(change for _, _, change, _ in controls) if controls else 0.0
        self._deviations = [abs(change - self._median) for _, _, change, _ in controls]
        self._of_case: dict[Subject, list[float]] = defaultdict(list)
        for case, _, change, _ in controls:
            self._of_case[case].append(change)

        self._in_run = self._in_case = None
        if len(controls) < MIN_CONTROLS:
            return
        self._in_run = _Spread(
            [(time, abs(change - self._median) / error) for _, time, change, error in controls], chance
        )
        for case, time, _, error in controls:
            changes = self._of_case[case]
            if changes and max(changes) - min(changes) > self._in_run.bound(time) * error:
                changes.clear()  # something befell one of them, and not the case
        moved = [
            (time, abs(change - statistics.median(others)) / error)
            for case, time, change, error in controls
            if (others := _without(self._of_case[case], change))
        ]
        if len(moved) >= MIN_CONTROLS:
            self._in_case = _Spread(moved, chance)

    def drift(self, mode: str) -> Drift:
        nine_in_ten = statistics.quantiles(self._deviations, n=10, method="inclusive")[8]
        return Drift(mode, self.controls, math.expm1(self._median), nine_in_ten)

    def judge(self, subject: Subject, pair: Pair, smallest: float) -> tuple[float, float]:
        """The change of a figure without the drift, and how much would be noise; both as logarithms."""
        time, error = _time(pair), self._error(pair)
        if self._in_run is None:
            noise, drift = math.hypot(UNKNOWN_DRIFT, self._z * error), 0.0
        else:
            choices = [(self._in_run.bound(time), self._median)]
            if self._in_case and (case := self._of_case[subject[:-1]]):
                choices.append((self._in_case.bound(time), statistics.median(case)))
            errors, drift = min(choices)
            noise = errors * error
        return _change(pair) - drift, max(math.log1p(smallest), noise)

    def _error(self, pair: Pair) -> float:
        """What the run itself knows of the error of a change: of the two medians, and of the clock it was read off."""
        read = 0.5 * self._step / _time(pair)  # each of the two may be off by half a step
        return math.hypot(_LEAST_ERROR, read, pair[0].error, pair[1].error)


class _Spread:
    """How many times their own error the controls moved, by the time they take."""

    def __init__(self, moved: Iterable[tuple[float, float]], chance: float) -> None:
        ordered = sorted(moved)
        self._times = [time for time, _ in ordered]
        self._moved = [times for _, times in ordered]
        percentiles = statistics.quantiles((x / self._scale(time) for time, x in ordered), n=100, method="inclusive")
        # A normal distribution falls faster than exponentially: real tails are fatter than its.
        q90, q99 = percentiles[89], percentiles[98]
        self._tail = max(_z(chance), q99 + (q99 - q90) * math.log10(0.01 / chance))

    def bound(self, time: float) -> float:
        return self._tail * self._scale(time)

    def _scale(self, time: float) -> float:
        """The standard deviation around ``time``, from the median: outliers belong to the tail."""
        start = bisect(self._times, time) - _NEIGHBOURS // 2
        start = max(0, min(start, len(self._times) - _NEIGHBOURS))
        return max(1.0, statistics.median(self._moved[start : start + _NEIGHBOURS]) / 0.6745)


def _z(chance: float) -> float:
    """The quantile of a normal distribution that is passed, on either side, with this chance."""
    return -statistics.NormalDist().inv_cdf(chance / 2)


def _is_control(provider: str) -> bool:
    # Not torch.compile: Inductor chooses its kernels anew in each run, by measuring.
    return provider in ("eager", CLONE) or provider.startswith("vendor:")


def _without(changes: list[float], one: float) -> list[float]:
    position = changes.index(one) if changes else 0
    return changes[:position] + changes[position + 1 :]


def _change(pair: Pair) -> float:
    return math.log(pair[1].median / pair[0].median)


def _time(pair: Pair) -> float:
    return math.sqrt(pair[0].median * pair[1].median)


def _enough(pair: Pair) -> bool:
    return min(figure.samples for figure in pair) >= MIN_ROUNDS


def _timer_step(pairs: Iterable[Pair]) -> float:
    """The clock's step in microseconds, as the least distance of two figures shows it (some chips count by 1.024)."""
    seen = sorted({value for pair in pairs for figure in pair for value in figure.quartiles})
    return min((right - left for left, right in pairwise(seen)), default=0.0)


def _runs(path: Path) -> list[Run]:
    """The runs in a file, oldest first."""
    file = path / "results.csv" if path.is_dir() else path
    by_identity: dict[tuple[str, ...], dict[Subject, Mapping[str, str]]] = defaultdict(dict)
    for row in results.read(file):
        identity = tuple(row[name] or "" for name in results.IDENTITY)
        subject = tuple(row[name] or "" for name in results.SUBJECT)
        former = by_identity[identity].setdefault(subject, row)
        if former != row:
            raise ValueError(f"{file} has two different rows of {_named(subject)} in the run of {identity[0]}")
    if not by_identity:
        raise ValueError(f"{file} holds no rows")
    named = [
        Run(file, dict(zip(results.IDENTITY, identity, strict=True)), rows) for identity, rows in by_identity.items()
    ]
    return sorted(named, key=lambda run: (run.identity["date"], run.identity["commit"]))


def _figure(run: Run, subject: Subject, mode: str) -> _Figure | None:
    """``None`` where the mode was not measured."""
    row = run.rows[subject]
    cells = [row[f"{mode}_{part}"] for part in ("us_q1", "us_median", "us_q3", "samples")]
    if not all(cells):
        return None
    try:
        q1, median, q3, samples = *map(float, cells[:3]), int(cells[3])
    except ValueError:
        q1 = median = q3 = samples = 0
    if not (0 < q1 <= median <= q3 < math.inf and samples > 0):
        raise ValueError(f"{run.path}: {mode} of {_named(subject)} is {cells}, expected three quartiles and a count")
    return _Figure((q1, median, q3), samples)


def _grown(a: Run, b: Run) -> list[Growth]:
    grown = []
    for subject in a.rows.keys() & b.rows.keys():
        before, after = (run.rows[subject]["peak_bytes"] for run in (a, b))
        if subject[-1] == FUSED and before and after and float(after) > PEAK_GROWTH * float(before):
            grown.append(Growth(_case(subject), float(before), float(after)))
    return sorted(grown, key=lambda growth: (-growth.after_bytes / max(1.0, growth.before_bytes), growth.case))


def _case(subject: Subject) -> str:
    op, problem, _, *rest, _ = subject
    return "/".join((op, problem, *rest))


def _named(subject: Subject) -> str:
    return f"{_case(subject)} {subject[-1]} ({subject[2]})"


def _machine(run: Run) -> str:
    return f"{run.identity['device']} {run.identity['chip']}"


def _about(run: Run) -> str:
    dirty = ", with changes that are not in it" if run.identity["dirty"] == "yes" else ""
    return f"{run.path}, {run.identity['date']}, commit {run.identity['commit'] or 'unknown'}{dirty}"


def _drift_line(drift: Drift) -> str:
    told = (
        f"  {drift.mode:<5} {drift.median:+.1%}, nine in ten within {drift.spread:.1%} of it ({drift.controls} figures)"
    )
    return told if drift.controls >= MIN_CONTROLS else f"{told}: too few, taken to be {UNKNOWN_DRIFT:.0%}"
