"""What is slower is told, and what only the machine did is not."""

import csv
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.compare import JUDGED, Run, compare, compare_runs, report
from benchmarks.devices import CpuDevice
from benchmarks.measure import Effort, measure
from benchmarks.old_ops import OPS
from benchmarks.registry import Case, cases

_IDENTITY = {
    "date": "2000-01-01T00:00:00+00:00",
    "commit": "a",
    "dirty": "no",
    "device": "cuda",
    "chip": "a simulated chip",
    "driver": "1",
    "torch": "2",
    "triton": "3",
}
_CASES, _SAMPLES = 300, 25


class _Machine:
    """Draws runs of the same code on a simulated machine.

    A figure is the provider's true time, times what moves it from run to run: the clock of the run (1.5% in each mode),
    what happened around the case (1%, alike for all that was measured in turn), and the provider itself (0.2%, and
    more for short kernels). All three have the fat tails of Laplace's distribution. Then 25 samples, noisier for short
    kernels, one in twenty longer by 30% or more, read off a clock that has a step.
    """

    def __init__(self, seed: int, *, step_us: float = 0.032) -> None:
        self.draw, self.step_us = np.random.default_rng(seed), step_us
        self.times: dict[tuple[int, str], float] = {}
        for case, clone in enumerate(np.geomspace(2, 3000, _CASES)):
            self.times |= {(case, "clone"): clone, (case, "fused"): 1.1 * clone, (case, "eager"): 2.3 * clone}
            if case % 4 == 0:
                self.times[case, "vendor:x"] = 1.4 * clone

    def run(self, slowed: dict[int, float] | None = None, **identity: str) -> Run:
        """A run in which the fused op is slower by a factor in the cases that ``slowed`` names."""
        rows: dict[tuple[int, str], dict[str, object]] = {
            key: {**_IDENTITY, **identity, **_subject(*key)} for key in self.times
        }
        keys = list(rows)
        case_of = np.array([case for case, _ in keys])
        true = np.array([self.times[key] * (slowed or {}).get(key[0], 1) ** (key[1] == "fused") for key in keys])
        for mode in results.MODES:
            if mode == "wall":
                true = np.maximum(true, 12)  # what the host needs to launch it
            moved = 0.015 * self.draw.laplace() + 0.01 * self.draw.laplace(0, 1, _CASES)[case_of]
            moved = moved + (0.002 + 0.02 / true) * self.draw.laplace(0, 1, len(keys))
            shape = (_SAMPLES, len(keys))
            relative = (0.004 + 0.06 / true) * self.draw.standard_normal(shape)
            relative += np.where(self.draw.random(shape) < 0.05, 0.3 + self.draw.exponential(0.3, shape), 0)
            samples = true * np.exp(moved + relative)
            if mode in ("cold", "warm"):
                samples = np.maximum(np.round(samples / self.step_us), 1) * self.step_us
            for key, quartiles in zip(keys, np.quantile(samples, (0.25, 0.5, 0.75), axis=0).T, strict=True):
                named = zip(("q1", "median", "q3"), quartiles, strict=True)
                rows[key] |= {f"{mode}_us_{part}": f"{value:.3f}" for part, value in named}
                rows[key][f"{mode}_samples"] = _SAMPLES
        return _run(rows.values())


def _subject(case: int, provider: str) -> dict[str, str]:
    op, dtype = f"op{case % 7}", ("float32", "bfloat16")[case % 2]
    named = (op, f"problem{case:03}", "1x2", dtype, "contiguous", "forward", provider)
    return dict(zip(results.SUBJECT, named, strict=True))


def _run(rows: Iterable[dict[str, object]]) -> Run:
    texts = [{column: str(row.get(column, "")) for column in results.COLUMNS} for row in rows]
    by_subject = {tuple(row[name] for name in results.SUBJECT): row for row in texts}
    return Run(Path("simulated.csv"), {name: texts[0][name] for name in results.IDENTITY}, by_subject)


def _moved(seed: int, step_us: float) -> int:
    machine = _Machine(seed, step_us=step_us)
    found = compare_runs(machine.run(), machine.run())
    assert found.judged == _CASES * len(results.MODES)
    assert found.exit_code == bool(found.slower)
    return len(found.slower) + len(found.faster)


@pytest.mark.parametrize(("step_us", "pairs"), [(0.032, 30), (1.024, 6)])
def test_of_equal_runs_not_one_figure_in_900_moves(step_us: float, pairs: int):
    # Of 300 pairs with other seeds, compared once by hand, one had a flag (step 0.032).
    assert sum(_moved(seed, step_us) > 0 for seed in range(pairs)) <= pairs // 50


def test_slower_kernels_are_found_and_no_others():
    found, slowed_in = Counter(), Counter()
    for seed, factor in [(0, 1.1), (1, 1.1), (2, 1.05), (3, 1.05), (4, 1.05), (5, 1.05)]:
        machine = _Machine(100 + seed)
        slowed = {case: factor for case in range(seed, _CASES, 7) if machine.times[case, "fused"] > 50}
        told = compare_runs(machine.run(), machine.run(slowed))
        cases_told = {int(move.case.split("/")[1].removeprefix("problem")) for move in told.slower}
        assert cases_told <= set(slowed)
        assert not told.faster
        large = {case for case in slowed if factor == 1.1 or machine.times[case, "fused"] > 200}
        found[factor] += len(cases_told & large)
        slowed_in[factor] += len(large)
    assert found[1.1] == slowed_in[1.1] > 40
    assert found[1.05] >= 0.95 * slowed_in[1.05] > 40


def test_short_kernels_are_found_where_they_are_twice_as_slow():
    machine = _Machine(7)
    told = compare_runs(machine.run(), machine.run(dict.fromkeys(range(10), 2)))
    assert {move.case.split("/")[1] for move in told.slower} == {f"problem{case:03}" for case in range(10)}


def test_what_all_providers_do_is_drift_and_what_the_fused_ops_alone_do_is_not():
    machine = _Machine(8)
    before, after = machine.run(), machine.run()
    assert not compare_runs(before, _scaled(after, 1.3)).slower
    told = compare_runs(before, _scaled(after, 1.3, only="fused"))
    assert len({move.case for move in told.slower}) > 0.9 * _CASES


def test_a_control_that_jumped_blinds_no_one_and_moves_no_one():
    machine = _Machine(9)
    before, after = machine.run(), machine.run({250: 1.25, 270: 1.1})
    jumped = [("clone", 200), ("clone", 250), ("eager", 220)]
    rows = dict(after.rows)
    for provider, case in jumped:
        key = tuple(_subject(case, provider).values())
        rows[key] = _times(rows[key], 1.4)
    told = compare_runs(before, replace(after, rows=rows))
    assert {move.case.split("/")[1] for move in told.slower} == {"problem250", "problem270"}
    assert not told.faster


def _scaled(run: Run, factor: float, only: str = "") -> Run:
    return replace(run, rows={k: _times(r, factor) if k[-1] == (only or k[-1]) else r for k, r in run.rows.items()})


def _times(row, factor: float) -> dict[str, str]:
    return {name: f"{float(cell) * factor:.3f}" if "_us_" in name else cell for name, cell in row.items()}


def _write(path: Path, run: Run) -> Path:
    results.append(path, run.rows.values())
    return path


def test_the_command_tells_the_slower_kernel_and_ends_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    machine = _Machine(10)
    a = _write(tmp_path / "a.csv", machine.run())
    (tmp_path / "b").mkdir()
    _write(tmp_path / "b" / "results.csv", machine.run({280: 1.1, 290: 1.3}, commit="b"))
    assert main(["compare", str(a), str(tmp_path / "b")]) == 1
    lines = capsys.readouterr().out.splitlines()
    first = lines.index(f"slower beyond noise: {2 * len(JUDGED)}") + 1
    assert all("op3/problem290" in line and "  x1." in line for line in lines[first : first + len(JUDGED)])
    assert all("op0/problem280" in line for line in lines[first + 3 : first + 6])
    assert lines[-1] == f"of 1200 figures of fused ops: {2 * len(JUDGED)} slower, 0 faster, 0 lost"

    _write(tmp_path / "c.csv", machine.run(commit="c", torch="3"))
    assert main(["compare", str(a), str(tmp_path / "c.csv")]) == 0
    assert "not the same software: torch 2 -> 3" in capsys.readouterr().out


def test_the_newest_run_of_a_file_is_taken_and_never_one_against_itself(tmp_path: Path):
    machine = _Machine(11)
    days = {
        "old": ("2000-01-01T00:00:00+00:00", "a simulated chip", {0: 50.0}),
        "newer": ("2000-01-03T00:00:00+00:00", "a simulated chip", None),
        "newest": ("2000-01-04T00:00:00+00:00", "a simulated chip", None),
        "of another chip": ("2000-01-05T00:00:00+00:00", "another", None),
    }
    runs = {name: machine.run(slow, date=date, chip=chip) for name, (date, chip, slow) in days.items()}
    table = tmp_path / "table.csv"
    for name in ("newest", "old", "of another chip", "newer"):
        _write(table, runs[name])
    single = _write(tmp_path / "single.csv", runs["newest"])

    # As after an evidence run: the repository's table holds B already.
    compared = compare(table, single)
    assert compared.a.identity["date"] == days["newer"][0]
    assert compared.b.identity["date"] == days["newest"][0]
    assert compare(single, _write(tmp_path / "newer.csv", runs["newer"])).a.identity == compared.b.identity
    with pytest.raises(ValueError, match="holds no other run on cuda another"):
        compare(table, table)
    with pytest.raises(ValueError, match="holds no other run on cuda a simulated chip than the one of 2000-01-04"):
        compare(single, single)


def test_what_is_lost_new_and_bigger(tmp_path: Path):
    machine = _Machine(12)
    before, after = machine.run(), machine.run(commit="b")
    fused = [tuple(_subject(case, "fused").values()) for case in range(4)]
    rows = {key: dict(row) for key, row in after.rows.items()}
    del rows[fused[0]], rows[tuple(_subject(9, "eager").values())]
    rows[fused[1]] |= {f"graph_{part}": "" for part in ("us_q1", "us_median", "us_q3", "samples")}
    for key, (was, now) in {fused[2]: (1000, 1051), fused[3]: (1000, 1049)}.items():
        before.rows[key]["peak_bytes"], rows[key]["peak_bytes"] = str(was), str(now)
    added = {**rows[fused[3]], "problem": "another"}
    rows[tuple(added[name] for name in results.SUBJECT)] = added
    told = compare_runs(before, replace(after, rows=rows))
    name = "problem000/float32/contiguous/forward"
    assert told.lost == (f"op0/{name} fused (1x2)", "op1/problem001/bfloat16/contiguous/forward (graph)")
    assert told.gone == ("op2/problem009/bfloat16/contiguous/forward eager (1x2)",)
    assert told.new == ("op3/another/bfloat16/contiguous/forward fused (1x2)",)
    assert [growth.case for growth in told.grown] == ["op2/problem002/float32/contiguous/forward"]
    assert not told.slower
    assert told.exit_code == 1
    assert "fused, in A but not in B: 2\n" in report(told)


def test_without_controls_the_drift_is_taken_to_be_large():
    machine = _Machine(13)
    before, after = machine.run(), machine.run({250: 1.08, 260: 1.25})
    kept = {tuple(_subject(case, "fused").values()) for case in (250, 260)}
    told = compare_runs(*(replace(run, rows={key: run.rows[key] for key in kept}) for run in (before, after)))
    assert {move.case.split("/")[1] for move in told.slower} == {"problem260"}
    assert "not known" in report(told)


def test_figures_of_too_few_samples_are_not_judged():
    machine = _Machine(14)
    before, after = machine.run(), machine.run(dict.fromkeys(range(_CASES), 3))
    few = {key: {**row, **{f"{mode}_samples": "4" for mode in results.MODES}} for key, row in after.rows.items()}
    told = compare_runs(before, replace(after, rows=few))
    assert (told.judged, told.unjudged, told.slower) == (0, _CASES * len(results.MODES), ())
    assert "1200 figures of fewer than 5 samples were not judged" in report(told)


def _cell(path: Path, column: str, value: str) -> None:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0][column] = value
    path.write_text(results.header() + results.render(rows))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda b: b.unlink(), "No such file or directory"),
        (lambda b: b.write_text("op,problem\n"), "has the columns 'op,problem'"),
        (lambda b: b.write_text(results.header()), "holds no rows"),
        (lambda b: _cell(b, "cold_us_median", "fast"), "'fast'"),
        (lambda b: _cell(b, "graph_us_q1", "-1"), "expected three quartiles and a count"),
        (lambda b: _cell(b, "wall_us_q3", "nan"), "expected three quartiles and a count"),
        (lambda b: _cell(b, "wall_samples", "0"), "expected three quartiles and a count"),
        (lambda b: b.write_text(b.read_text().replace("a simulated chip", "another")), "different chips"),
        (lambda b: b.write_text(b.read_text().replace("cuda", "rocm")), "different chips"),
        (lambda b: results.append(b, [{**results.read(b)[0], "launches": 2}]), "has two different rows of op0/problem"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil, sentence: str):
    machine = _Machine(15)
    a, b = _write(tmp_path / "a.csv", machine.run()), _write(tmp_path / "b.csv", machine.run(commit="b"))
    spoil(b)
    assert main(["compare", str(a), str(b)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: ")
    assert error.count("\n") == 1
    assert sentence in error


_TOY = {case.key: case for case in cases(OPS, toy=True)}
_MEASURED = [_TOY[f"bias_act/toy_4/float32/contiguous/{pass_}"] for pass_ in ("forward", "backward")]
_EFFORT = Effort(rounds=15, seconds=60.0, wall_calls=2, compile_backend="eager")


def _measured(path: Path, commit: str, listed: list[Case]) -> Path:
    for case in listed:
        rows, refusals = measure(case, CpuDevice(), _EFFORT)
        assert not refusals
        identity = {**_IDENTITY, "device": "cpu", "commit": commit}
        results.append(path, [{**identity, **row} for row in rows])
    return path


def test_measured_here_the_slowed_op_is_flagged_and_the_same_op_is_not(tmp_path: Path):
    # The reference in the place of the fused op: a call of the interpreter lasts for milliseconds, in which it depends
    # on what else runs here.
    forward, backward = (replace(case, op=replace(case.op, fused=case.op.reference)) for case in _MEASURED)

    def slow(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return forward.op.fused(x, bias)

    slowed = replace(forward, op=replace(forward.op, fused=slow))
    a = _measured(tmp_path / "a.csv", "a", [forward, backward])
    again = compare(a, _measured(tmp_path / "again.csv", "again", [forward, backward]))
    assert (again.slower, again.faster, again.exit_code) == ((), (), 0), report(again)
    assert again.judged == 2 * 3  # no graphs on a CPU

    told = compare(a, _measured(tmp_path / "b.csv", "b", [slowed, backward]))
    assert {(move.case, move.mode) for move in told.slower} == {(forward.key, "cold"), (forward.key, "wall")}, report(
        told
    )
    assert told.exit_code == 1
    assert "MEASURED ON A CPU" in report(told)
