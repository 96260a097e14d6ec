"""``python -m benchmarks``, and the evidence run."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import evidence, results, run
from benchmarks.__main__ import main
from benchmarks.chips import CHIPS, bound_seconds, resident_programs
from benchmarks.evidence import Stage
from benchmarks.ops import OPS

ROOT = Path(__file__).parents[2]


def test_without_a_gpu_each_op_has_a_line_of_at_most_80_columns():
    """In a process that is not interpreted, as a user's."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks"]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**environment, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "kernels"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    head, lines = found.stdout.splitlines()[:3], found.stdout.splitlines()[3:]
    assert "nothing is timed" in head[0]
    assert {line.split()[0] for line in lines} == set(OPS)
    assert len(lines) == len(OPS)
    assert max(map(len, [*head, *lines])) <= 80
    (bias_act,) = (line for line in lines if line.startswith("bias_act "))
    # Forward, the gradients with the sum of the bias', and its derivative.
    assert bias_act.split()[1:] == ["1/2/1", "2/2/1", "537/805/805", "112/168/168"]


def test_a_new_folder_is_made_and_what_it_holds_is_not_measured_again(tmp_path: Path, capsys):
    out = tmp_path / "new" / "deeper"
    words = ["noise_injection", "float32", "/forward", "--toy", "--out", str(out)]
    assert main(words) == 0
    rows = results.read(out)
    assert {row["implementation"] for row in rows} == {"fused", "eager", "in_its_type", "copy"}
    assert {row["device"] for row in rows} == {"cpu"}
    assert "says nothing about speed" in capsys.readouterr().out
    assert main(words) == 0
    assert results.read(out) == rows


@pytest.mark.parametrize("command", [["run", "adain", "--toy"], ["check", "--toy"], ["evidence", "--toy"]])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, capsys, command: list[str]):
    (tmp_path / "file").write_text("")
    assert main([*command, "--out", str(tmp_path / "file" / "out")]) == 2
    said = capsys.readouterr()
    assert said.err == f"benchmarks: {tmp_path}/file/out: Not a directory\n"
    assert "done" not in said.out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["adain", "nothing_like_it"], "no case has all of 'adain nothing_like_it' in its name"),
        (["check"], "torch sees no GPU; --toy checks the ops at toy sizes"),
        (["--steps"], "torch sees no GPU, and whole steps need one to be measured"),
        (["--chip", "H2000"], "no chip is called 'H2000'; the chips are A100, "),
        (["evidence", "--minutes", "0", "--out", "x"], "--minutes is 0, expected more than 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(monkeypatch, capsys, command: list[str], said: str):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(command) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_wrong_op_fails_the_check(tmp_path: Path, monkeypatch, capsys):
    def wrong(x, bias, **settings):
        return OPS["bias_act"].reference(x, bias * 2, **settings)

    kept = {name: OPS[name] for name in ("bias_act", "interpolate")}
    for name, ops in (("right", kept), ("wrong", {**kept, "bias_act": replace(kept["bias_act"], op=wrong)})):
        monkeypatch.setattr("benchmarks.cases.OPS", ops)
        (tmp_path / name).mkdir()
        assert (run.check_all(tmp_path / name, toy=True) > 0) == (name == "wrong")
    assert "bias_act/toy/float32/contiguous/forward/check: fused wrong: error" in capsys.readouterr().out
    assert all("bias_act" in line for line in run.refused(tmp_path / "wrong"))


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def _runs(pid: str) -> bool:
    """Whether a process is there and no zombie that nobody has waited for."""
    status = Path(f"/proc/{int(pid)}/stat")
    return status.exists() and status.read_text().split()[2] != "Z"


COMMIT = "0123456789abcdef"


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """That of a machine; taken from the real one it takes a second."""
    found = dict.fromkeys(results.IDENTITY, "same") | {"commit": COMMIT, "date": "today"}
    monkeypatch.setattr(results, "identity", lambda commit=None: dict(found))
    return found


def test_each_stage_has_a_limit_its_results_stay_and_the_run_resumes(tmp_path: Path, capsys, identity):
    """Three stages: one ends, one must be killed with what it started, one is behind both."""
    child = "import subprocess; s = subprocess.Popen(['sleep', '60']); print(s.pid, flush=True); s.wait()"
    stages = [
        Stage("first", python("print('first result')"), 2),
        Stage("endless", python(child), 1),
        Stage("last", python("raise SystemExit(1)"), 7),
    ]
    assert evidence.collect(tmp_path, until=time.time() + 9, toy=True, commit=None, chosen=stages) == 1
    said = capsys.readouterr().out
    assert "first: passed after" in said
    assert "endless: cut off at its limit after" in said
    assert "last: FAILED (exit code 1)" in said
    assert (tmp_path / "first.log").read_text() == "first result\n"
    sleeper = (tmp_path / "endless.log").read_text()
    assert not _runs(sleeper)
    assert (tmp_path / "summary.txt").read_text() in said

    # The same command runs only what was cut off.
    again = [Stage(stage.name, python("print('again')"), stage.seconds) for stage in stages]
    assert evidence.collect(tmp_path, until=time.time() + 60, toy=True, commit=None, chosen=again) == 1
    assert (tmp_path / "endless.log").read_text() == f"{sleeper}again\n"
    assert (tmp_path / "first.log").read_text() == "first result\n"


def test_a_process_that_dies_in_a_case_is_restarted_after_it(tmp_path: Path, identity, capsys):
    progress = tmp_path / run.PROGRESS
    progress.write_text('{"case": "adain/x", "event": "begin", "at": 0}\n{"case": "half a li')
    dies_once = (
        f"import pathlib, os; p = pathlib.Path({str(tmp_path / 'died')!r})\n"
        "if not p.exists():\n    p.touch(); os.kill(os.getpid(), 9)\nprint('resumed')"
    )
    stage = Stage("ops", python(dies_once), 1)
    assert evidence.collect(tmp_path, until=time.time() + 60, toy=True, commit=None, chosen=[stage]) == 0
    assert (tmp_path / "ops.log").read_text() == "resumed\n"
    assert "adain/x: the process died or hung" in capsys.readouterr().out


def test_what_was_cut_off_is_tried_again_and_what_killed_its_process_is_not(tmp_path: Path, monkeypatch):
    """A line that a kill cut short does not swallow the next."""
    kept = {name: OPS[name] for name in ("interpolate", "noise_injection")}
    monkeypatch.setattr("benchmarks.cases.OPS", kept)
    half, died, cut_off, stood_still = (
        f"{name}/toy/{kind}/forward/check" for name in kept for kind in ("float32/contiguous", "bfloat16/channels_last")
    )
    now = time.time()
    begun = [
        {"case": died, "event": "begin", "at": now},
        {"case": cut_off, "event": "begin", "at": now},
        {"case": stood_still, "event": "begin", "at": now - 1000},
    ]
    progress = tmp_path / run.PROGRESS
    progress.write_text("\n".join(map(json.dumps, begun[1:])) + '\n{"case": "' + half)
    run.forgive(tmp_path)
    with progress.open("a") as file:
        file.write("\n" + json.dumps(begun[0]))
    assert run.check_all(tmp_path, toy=True) == 0
    ended = [json.loads(line)["case"] for line in progress.read_text().splitlines() if '"end"' in line]
    assert {half, cut_off} <= set(ended)
    assert not {died, stood_still} & set(ended)
    assert run.refused(tmp_path) == [f"{case}: the process died or hung" for case in (stood_still, died)]


def test_evidence_of_another_commit_is_refused(tmp_path: Path, identity, capsys):
    assert (
        evidence.collect(tmp_path, until=time.time() + 60, toy=True, commit=None, chosen=[Stage("a", python(""), 1)])
        == 0
    )
    before = (tmp_path / evidence.STATE).read_text()
    identity_before = json.loads(before)["identity"]
    assert identity_before["commit"] == COMMIT
    identity["commit"] = "other"
    with pytest.raises(ValueError, match=f"holds evidence of another state .commit '{COMMIT}', now 'other'"):
        evidence.collect(tmp_path, until=time.time() + 60, toy=True, commit=None)
    assert (tmp_path / evidence.STATE).read_text() == before


def test_figures_of_a_gpu_without_a_commit_are_refused(tmp_path: Path, identity):
    identity["commit"] = ""
    with pytest.raises(ValueError, match="name it with --commit"):
        evidence.collect(tmp_path, until=time.time() + 60, toy=False, commit=None)
    assert list(tmp_path.iterdir()) == []


def test_the_stages_prove_correctness_first_and_compile_last(tmp_path: Path):
    for toy in (False, True):
        stages = evidence.stages(tmp_path, toy=toy)
        seconds = {stage.name: stage.seconds for stage in stages}
        assert list(seconds.items())[:4] == [("check", 45), ("tests", 90), ("ops", 215), ("steps", 120)]
        assert list(seconds)[4:] == ["compiled ops", "compiled steps"]
        assert sum(seconds.values()) <= 600 - evidence._RESERVE_SECONDS
    commands = {stage.name: " ".join(stage.command) for stage in evidence.stages(tmp_path, toy=False)}
    assert f"-m gpu and not judged and not exhaustive {evidence._MODES} tests/kernels tests/" in commands["tests"]
    assert (ROOT / evidence._MODES).exists()
    assert all(("--compiled" in command) == name.startswith("compiled") for name, command in commands.items())


def test_a_second_run_takes_the_compiled_baselines_first(tmp_path: Path, identity, capsys):
    stages = [Stage(name, python("print(1)"), seconds) for name, seconds in (("a", 90), ("b", 200), ("c", 10))]
    cut_off = {name: {"status": "cut off", "code": None, "seconds": 1} for name in "bc"}
    state = {"identity": identity, "toy": True, "stages": {"a": {"status": "done", "code": 0, "seconds": 1}, **cut_off}}
    (tmp_path / evidence.STATE).write_text(json.dumps(state))
    assert evidence.collect(tmp_path, until=time.time() + 605, toy=True, commit=None, chosen=stages) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == ("c: at most 300 s", "b: at most 600 s")


def test_sigterm_ends_the_stage_in_progress_too(tmp_path: Path):
    """The sleeping child, in a session of its own, would otherwise survive."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom benchmarks import __main__, evidence, results\n"
        "results.identity = lambda commit=None: {'commit': 'c', 'chip': 'x', 'date': 'd'}\n"
        f"sleeper = (sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)')\n"
        "evidence.stages = lambda out, toy: [evidence.Stage('sleep', sleeper, 1)]\n"
        f"sys.exit(__main__.main(['evidence', '--toy', '--out', {str(tmp_path)!r}]))"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    driver = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment)
    log = tmp_path / "sleep.log"
    while not (log.exists() and log.read_text()):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.terminate()
    assert driver.wait(30) == 143
    assert not _runs(log.read_text())


# All cases in Triton's interpreter, and torch.compile on a CPU: minutes.
@pytest.mark.exhaustive
def test_the_whole_run_at_toy_size(tmp_path: Path):
    environment = {**os.environ, "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1"}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks", "evidence", "--toy", "--minutes", "20", "--out", str(out)]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = results.read(out)
    assert {row["op"] for row in rows} >= set(OPS)
    assert {"compile", "fused_compile"} <= {row["implementation"] for row in rows}
    assert len({row["date"] for row in rows}) == 1


def test_occupancy_and_bytes_bound_a_chip():
    h200 = CHIPS["H200"]
    # 64 registers and 256 threads: 16384 registers a program, so four; shared memory may allow fewer.
    assert resident_programs(h200, registers=64, threads=256) == 4
    assert resident_programs(h200, registers=57, threads=256) == 4
    assert resident_programs(h200, registers=16, threads=32) == 32
    assert resident_programs(h200, registers=64, threads=256, shared_bytes=100 * 1024) == 2
    # 4.8 TB/s for 700 ns are 3.36 MB in flight, 25 KB on each of 132 multiprocessors.
    assert h200.bytes_in_flight == pytest.approx(25455, rel=1e-3)
    assert bound_seconds(h200, 4.8e9) == pytest.approx(1e-3)
