"""Collects the evidence that the kernels are right and fast on this machine, in stages that each have a time limit.

Each stage is a process that is killed when its limit is over. What it has written stays, and the same command resumes
from there.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import report, results, run

STATE = "evidence.json"
_RESERVE_SECONDS = 5  # to write the summary
_MAX_CRASHES = 4
_MODES = "tests/fastgan/training/test_modes_on_a_chip.py"  # graphs and compiled steps, which nothing else can test


@dataclass(frozen=True)
class Stage:
    """A command and its seconds of ten minutes; ``restart``: whether to run it again after a case that killed it."""

    name: str
    command: tuple[str, ...]
    seconds: float
    restart: bool = True


def stages(out: Path, *, toy: bool) -> list[Stage]:
    """The stages, most important first; time that one leaves unused is for those after it."""
    here = (sys.executable, "-m", "benchmarks")
    common = (f"--out={out}", *(("--toy",) if toy else ()))
    workers = ("-n", "4") if find_spec("xdist") else ()
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, f"--junitxml={out}/tests.xml")
    tests = (
        ("tests/kernels/test_tiling.py",)
        if toy
        else ("-m", "gpu and not judged and not exhaustive", _MODES, "tests/kernels", "tests/fastgan")
    )
    return [
        Stage("check", (*here, "check", *common), 45),
        Stage("tests", (*pytest, *tests), 90, restart=False),
        Stage("ops", (*here, "run", "--all", *common), 215),
        Stage("steps", (*here, "run", "--steps", *common), 120),
        Stage("compiled ops", (*here, "run", "--compiled", *common), 60),
        Stage("compiled steps", (*here, "run", "--steps", "--compiled", *common), 60),
    ]


def collect(out: Path, *, until: float, toy: bool, commit: str | None, chosen: Sequence[Stage] | None = None) -> int:
    """Runs or resumes the stages; prints the summary at the end and writes it to ``out``/summary.txt.

    Args:
        out: the folder of the results, created if it does not exist.
        until: when the run must end, in seconds since the epoch.
        toy: whether to run toy sizes on the CPU, in Triton's interpreter.
        commit: the measured commit, needed where the sources are not a git checkout.

    Returns:
        The exit code: 1 if a test failed, an op was wrong or a process died, else 0.

    Raises:
        ValueError: if ``out`` holds evidence of another commit, machine or size; if no commit is known for
            measurements on a GPU.
    """
    until -= _RESERVE_SECONDS
    identity = results.identity(commit)
    if not toy and not identity["commit"]:
        raise ValueError("the sources are not a git checkout, and figures need their commit: name it with --commit")
    state = {"identity": identity, "toy": toy, "stages": {}}
    if (out / STATE).exists():
        state = _resumed(json.loads((out / STATE).read_text()), state, out)
    _save(state, out)
    left = [s for s in (chosen or stages(out, toy=toy)) if state["stages"].get(s.name, {}).get("status") != "done"]
    if all(stage.name in state["stages"] for stage in left):
        # A second run: all were cut off, those with torch.compile after the least time.
        left = [replace(stage, seconds=1) for stage in sorted(left, key=lambda stage: stage.seconds)]
    for i, stage in enumerate(left):
        share = stage.seconds / sum(s.seconds for s in left[i:])
        limit = time.time() + share * (until - time.time())
        print(f"{stage.name}: at most {limit - time.time():.0f} s", flush=True)
        state["stages"][stage.name] = _run(stage, out, limit, toy=toy)
        _save(state, out)
    text, failed = summary(out, state)
    (out / "summary.txt").write_text(text)
    print(text, end="", flush=True)
    return int(failed)


def _resumed(former: dict, state: dict, out: Path) -> dict:
    then, now = ({**s["identity"], "toy": s["toy"]} for s in (former, state))
    differs = [
        f"{name} {then[name]!r}, now {now[name]!r}" for name in now if name != "date" and then[name] != now[name]
    ]
    if differs:
        raise ValueError(f"{out} holds evidence of another state ({'; '.join(differs)}); give another folder")
    return former  # with its date, so that all rows of a resumed run have the same one


def _run(stage: Stage, out: Path, limit: float, *, toy: bool) -> dict[str, object]:
    """Runs a stage to its end or its limit; its output goes to ``out``/STAGE.log."""
    paths = [str(results.ROOT), str(results.ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    if toy:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    start = time.time()
    code: int | None = None
    for _ in range(_MAX_CRASHES):
        with (out / f"{stage.name.replace(' ', '-')}.log").open("ab") as log:
            child = subprocess.Popen(
                stage.command, cwd=results.ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                code = child.wait(max(0.1, limit - time.time()))
            except subprocess.TimeoutExpired:
                code = None
                run.forgive(out)
            finally:
                if child.poll() is None:
                    # The child leads its own session, so the processes that it started are killed too.
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        # Exit codes 0, 1 and 2 are results; with any other the process died during a case.
        if code in (None, 0, 1, 2) or not stage.restart:
            break
    status = "cut off" if code is None else "done"
    return {"status": status, "code": code, "seconds": round(time.time() - start, 1)}


def summary(out: Path, state: dict) -> tuple[str, bool]:
    """Summarizes the folder as text; also returns whether something failed."""
    lines = [
        "",
        f"{len(state['stages'])} stages on {state['identity']['chip']}, commit {state['identity']['commit'][:12]}",
    ]
    failed = False
    for name, stage in state["stages"].items():
        answer = {0: "passed", None: "cut off at its limit"}.get(stage["code"], f"FAILED (exit code {stage['code']})")
        failed |= stage["code"] not in (0, None)
        lines.append(f"{name}: {answer} after {stage['seconds']} s, see {name.replace(' ', '-')}.log")
    lines += run.refused(out)
    if (out / results.FILE).exists():
        lines += report.lines(results.read(out)) + report.short(results.read(out))
        if not state["toy"]:
            lines.append(f"python -m benchmarks merge {out} appends the rows to benchmarks/results.csv")
    return "\n".join(lines) + "\n", failed


def _save(state: dict, out: Path) -> None:
    (out / STATE).write_text(json.dumps(state, indent=1) + "\n")
