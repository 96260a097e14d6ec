"""The whole run at toy size: begun, hit by a fault, stopped, resumed, finished."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import machine, results, worker
from benchmarks.__main__ import main
from benchmarks.limits import Limit
from benchmarks.old_ops import OPS
from benchmarks.registry import key_of
from benchmarks.steps import STEPS
from benchmarks.steps.step import StepCase
from benchmarks.suite import AnyCase, suite
from benchmarks.summary import MEMORY_ERRORS, _sanitizer

_ROOT = Path(__file__).parents[2]
_FILES = {
    "evidence.json", "tests.xml", "tests.log", "sanitizer.log", "bench.jsonl", "bench.log", "results.csv", "summary.txt"
}  # fmt: skip


@dataclass
class _Story:
    out: Path
    repository_csv_before: bytes
    stopped: subprocess.CompletedProcess[str]
    rows_when_stopped: list[dict[str, str]]
    stages_when_stopped: dict
    resumed: subprocess.CompletedProcess[str]
    forgiven: subprocess.CompletedProcess[str]


# One that takes long enough to be hit in its middle, and one some time after it.
_HIT, _LATER = (next(case.key for case in suite(toy=True) if case.key.startswith(op)) for op in ("wgan_gp", "adain"))
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


def _command(out: Path) -> list[str]:
    program = [sys.executable, "-m", "benchmarks", "evidence", "--toy", "--minutes", "9"]
    return [*program, "--commit", _COMMIT, "--out", str(out)]


def _environment() -> dict[str, str]:
    # As on a machine that has the sources and no checkout: a commit made meanwhile is none of the run's business.
    no_checkout = {"GIT_DIR": str(_ROOT / "nowhere")}
    # Options of this run of pytest are none of the run's that it starts.
    path = f"{_ROOT}:{_ROOT / 'kernels'}"
    return {**os.environ, **no_checkout, "PYTEST_ADDOPTS": "", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _run(out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(out), cwd=_ROOT, env=_environment(), capture_output=True, text=True, check=False)


def _wait_for(driver: subprocess.Popen[str], out: Path, kind: str, case: str) -> None:
    while not any(event["event"] == kind and event["case"] == case for event in worker.events(out)):
        assert driver.poll() is None, f"the run ended without {kind} of {case}: {driver.communicate()}"
        time.sleep(0.02)


def _measuring_process(driver: int) -> int:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if (
                b"benchmarks.worker" in entry.read_bytes()
                and f"\nPPid:\t{driver}\n" in entry.with_name("status").read_text()
            ):
                return int(entry.parent.name)
        except OSError:
            continue  # it has just ended
    raise AssertionError("no measuring process")


# Six minutes on two quiet cores. `pytest -m slow tests/benchmarks/test_bench_evidence.py` is its command.
@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> _Story:
    out = tmp_path_factory.mktemp("evidence") / "out"
    before = results.REPOSITORY_CSV.read_bytes()
    pipe = subprocess.PIPE
    driver = subprocess.Popen(_command(out), cwd=_ROOT, env=_environment(), stdout=pipe, stderr=pipe, text=True)
    # What a fault of the device looks like from outside: the measuring process is gone.
    _wait_for(driver, out, "begin", _HIT)
    os.kill(_measuring_process(driver.pid), signal.SIGKILL)
    _wait_for(driver, out, "done", _LATER)
    driver.send_signal(signal.SIGTERM)
    stdout, stderr = driver.communicate(timeout=60)
    stopped = subprocess.CompletedProcess(driver.args, driver.returncode, stdout, stderr)
    rows = results.read(out / worker.RESULTS)
    stages = json.loads((out / worker.RUN).read_text())["stages"]
    resumed = _run(out)
    # The case of the fault gets another chance only if a person says so.
    progress = out / worker.PROGRESS
    kept = [line for line in progress.read_text().splitlines(keepends=True) if '"crashed"' not in line]
    progress_with_fault = progress.read_text()
    progress.write_text("".join(kept))
    assert progress_with_fault.count('"crashed"') == 1
    return _Story(out, before, stopped, rows, stages, resumed, _run(out))


@pytest.mark.slow
def test_a_stopped_run_keeps_what_it_has_and_says_what_is_missing(story: _Story):
    assert story.stopped.returncode == 143, story.stopped.stderr
    assert len({key_of(row) for row in story.rows_when_stopped}) >= 4
    assert f"crashed: {_HIT}: exit code -9" in story.stopped.stdout
    assert "missing: " in story.stopped.stdout
    status = {name: stage["status"] for name, stage in story.stages_when_stopped.items()}
    assert status == {"tests": "done", "unchecked": "done", "warm_up": "done"}


@pytest.mark.slow
def test_resumption_repeats_nothing_and_reports_the_fault(story: _Story):
    assert story.resumed.returncode == 1, story.resumed.stderr
    assert story.resumed.stdout.rstrip().endswith(f"{_HIT} crashed")
    rows = results.read(story.out / worker.RESULTS)
    assert rows[: len(story.rows_when_stopped)] == story.rows_when_stopped
    providers = Counter((key_of(row), row["provider"]) for row in rows)
    assert set(providers.values()) == {1}
    assert len({row["date"] for row in rows}) == 1, "resumed, it is still the same run"
    stages = json.loads((story.out / worker.RUN).read_text())["stages"]
    for name in ("tests", "unchecked", "warm_up"):
        assert stages[name] == story.stages_when_stopped[name]


@pytest.mark.slow
def test_a_whole_run_ends_well(story: _Story):
    assert story.forgiven.returncode == 0, story.forgiven.stdout + story.forgiven.stderr
    lines = story.forgiven.stdout.splitlines()
    assert lines[-1] == "no faults"
    listed = suite(toy=True)
    assert f"benchmark: {len(listed)} of {len(listed)} cases finished" in lines
    assert f"planted wrong kernels refused: {len(OPS)} of {len(OPS)}" in lines
    assert not any(line.startswith(("wrong", "failed", "crashed")) for line in lines)
    assert "Toy size on a CPU: this proves that the run works, and says nothing about speed." in lines
    assert "aims: judged on a GPU only" in lines
    assert any(line.startswith("fastest copy: ") for line in lines)
    assert {"wgan_gp_step", *(op.name for op in OPS)} <= {line.strip() for line in lines}
    assert any(re.fullmatch(r"compute-sanitizer: not there, (\d+) of \1 calls ran unchecked", line) for line in lines)
    assert any(line.startswith("tests: ") and " 0 failures, 0 errors" in line for line in lines)


def _providers(case: AnyCase) -> Iterable[str]:
    if isinstance(case, Limit):
        return [case.provider]
    if isinstance(case, StepCase):
        return [name for name in case.step.providers if name != "graph"]  # which a CPU refuses
    return ["fused", "eager", "clone", *(f"vendor:{v}" for v in case.op.vendors), *(["compile"] * case.compiled)]


@pytest.mark.slow
def test_every_right_provider_of_every_case_has_a_row_marked_as_a_cpus(story: _Story):
    rows = results.read(story.out / worker.RESULTS)
    expected = {(case.key, provider) for case in suite(toy=True) for provider in _providers(case)}
    assert {(key_of(row), row["provider"]) for row in rows} == expected
    assert {row["device"] for row in rows} == {"cpu"}
    for row in rows:
        modes = [mode for mode in results.MODES if row[f"{mode}_us_median"]]
        if row["op"] in {op.name for op in OPS}:
            assert modes == ["cold", "warm", "wall"]
        assert modes
        assert all(float(row[f"{mode}_us_median"]) > 0 for mode in modes)
        assert ("wall" in modes and row["parts_us"] != "") or row["op"] not in {step.name for step in STEPS}
        assert row["graph_us_median"] == row["peak_bytes"] == row["driver"] == row["launches"] == ""
        assert (row["commit"], row["dirty"]) == (_COMMIT, "")


@pytest.mark.slow
def test_the_folder_is_small_and_flat_and_the_repositorys_table_untouched(story: _Story):
    assert {path.name for path in story.out.iterdir()} == _FILES
    assert all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in story.out.iterdir())
    assert results.REPOSITORY_CSV.read_bytes() == story.repository_csv_before


def test_a_folder_with_other_evidence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / worker.RUN).write_text(
        json.dumps({"identity": dict.fromkeys(results.IDENTITY, "other"), "toy": True, "stages": {}})
    )
    before = (tmp_path / worker.RUN).read_text()
    assert main(["evidence", "--toy", "--out", str(tmp_path)]) == 2
    assert "holds evidence of another state (commit 'other', now " in capsys.readouterr().err
    assert (tmp_path / worker.RUN).read_text() == before


def test_a_time_that_is_over_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evidence", "--toy", "--minutes", "0", "--out", str(tmp_path / "out")]) == 2
    assert "--minutes is 0, expected more than 0" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_figures_of_a_gpu_without_a_commit_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(machine, "identity", lambda commit: dict.fromkeys(results.IDENTITY, "") | {"commit": commit})
    assert main(["evidence", "--out", str(tmp_path / "out")]) == 2
    assert "name it with --commit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_memory_checker_says_what_it_saw(tmp_path: Path):
    stage = {"status": "done", "code": 0, "seconds": 1.0, "calls": "120 of 312"}
    said, faults = _sanitizer({"memcheck": stage, "racecheck": {**stage, "code": MEMORY_ERRORS}})
    assert said == "compute-sanitizer: memcheck clean in 120 of 312 calls, racecheck FOUND ERRORS, see sanitizer.log"
    assert faults == ["racecheck found errors"]


def test_merging_a_table_with_another_header_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    assert main(["merge", str(tmp_path / "results.csv")]) == 2
    assert "has the columns 'a,b', expected 'date," in capsys.readouterr().err
