"""Everything that proves the state of the kernels on this machine, in one command with a time limit.

First what is not timed, side by side: the tests, a memory checker, and the compilation of what will be benchmarked.
Then, on a quiet machine, the benchmark. What is finished stays: the same command goes on where it was cut off.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks import machine, results, worker
from benchmarks.summary import MEMORY_ERRORS, summarise

_ROOT = Path(__file__).parents[1]
_CHIP_TESTS = ("tests/kernels", "tests/fastgan")
_TOY_TESTS = ("tests/benchmarks/test_bench_results.py", "tests/benchmarks/test_bench_timing.py")
_UNTIMED_SHARE = 0.4  # of the time, at most, for tests, checker and compilation; the benchmark has the rest
_RESERVE_SECONDS = 10  # to stop the last case and write the summary
_LAST_CALL_SECONDS = 15  # that the memory checker gets for its last call and its report
_STALL_SECONDS = 120  # a case takes about a second, uncached compilation of all its graphs less than two minutes
_TOY_STALL_SECONDS = 300  # the same in Triton's interpreter, on processors that other work may keep busy
_MAX_CRASHES = 8
_LOG_BYTES = 8 * 2**20
_TOY_SHARES = 12  # there is nothing to cache at toy size: one share of twelve shows that it works


class Refused(Exception):
    """The run would not be evidence: the folder holds that of something else, or nobody says of what commit it is."""


class Terminated(BaseException):
    """SIGTERM."""


def run(out: Path, *, until: float, toy: bool, commit: str | None) -> int:
    """Runs or resumes the evidence in ``out``: at most eight flat files. The summary is printed last.

    Args:
        out: the folder.
        until: when it must be over, in seconds since the epoch.
        toy: toy sizes on the CPU; chosen by itself, and said aloud, where there is no GPU.
        commit: what is measured, where the sources are not a git checkout.

    Returns:
        0; 1 if a test, a kernel or the run failed; 130 or 143 if it was interrupted.

    Raises:
        Refused: if ``out`` holds evidence of another commit, machine or size; if a GPU would be measured and no commit
            is known.
    """
    if toy:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        print("no GPU here: toy size on the CPU, which proves that the run works and nothing about speed", flush=True)
        toy = True
    evidence = _Evidence(out.resolve(), until - _RESERVE_SECONDS, toy, commit)
    before = signal.signal(signal.SIGTERM, _terminate)
    interrupted = 0
    try:
        evidence.untimed_stages()
        evidence.benchmark()
    except KeyboardInterrupt:
        interrupted = 130
    except Terminated:
        interrupted = 143
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        evidence.stop_children()
        failed = evidence.finish()
        signal.signal(signal.SIGTERM, before)
    return interrupted or int(failed)


def _terminate(*_: object) -> None:
    raise Terminated


@dataclass(frozen=True)
class _Ended:
    """How a child process ended: its exit code, or ``None`` where its time was up."""

    code: int | None
    seconds: float


class _Evidence:
    def __init__(self, out: Path, deadline: float, toy: bool, commit: str | None) -> None:
        self.out, self.deadline, self.toy = out, deadline, toy
        self.stopping = False
        self.children: set[subprocess.Popen[bytes]] = set()
        identity = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **machine.identity(commit)}
        if not toy and not identity["commit"]:
            raise Refused("the sources are no git checkout, and figures need their commit: name it with --commit")
        self.state = {"identity": identity, "toy": toy, "machine": machine.description(), "stages": {}}
        if (out / worker.RUN).exists():
            self._resume(json.loads((out / worker.RUN).read_text()))
        out.mkdir(parents=True, exist_ok=True)
        self._save()

    def _resume(self, former: dict) -> None:
        then, now = ({**state["identity"], "toy": state["toy"]} for state in (former, self.state))
        names = [name for name in now if name != "date" and then[name] != now[name]]
        if names:
            differs = "; ".join(f"{name} {then[name]!r}, now {now[name]!r}" for name in names)
            raise Refused(f"{self.out} holds evidence of another state ({differs}); give another folder")
        self.state["stages"] = former["stages"]
        # Its rows are those of one run, however often it is resumed.
        self.state["identity"]["date"] = former["identity"]["date"]

    def untimed_stages(self) -> None:
        """Tests, memory checker and compilation at the same time; each is repeated on resumption unless it ended."""
        start = time.time()
        until = start + _UNTIMED_SHARE * (self.deadline - start)
        jobs = [self._tests, self._sanitizer, self._warm_up]
        with ThreadPoolExecutor(len(jobs)) as pool:
            try:
                for done in [pool.submit(job, until) for job in jobs]:
                    done.result()
            except BaseException:
                self.stop_children()  # else the pool waits for them
                raise

    def benchmark(self) -> None:
        """Starts the measuring process, and again after each fault of the device, until it has been through."""
        command = [sys.executable, "-m", "benchmarks.worker", f"--out={self.out}", f"--until={self.deadline}"]
        start = time.time()
        code: int | None = 1
        for _ in range(_MAX_CRASHES):
            ended = self._child([*command, *self._toy()], "bench.log", self.deadline, progress=worker.PROGRESS)
            code = ended.code
            if code == 0 or time.time() > self.deadline or not self._note_crash(ended):
                break
        self._stage("bench", _Ended(code, time.time() - start))
        self.state["machine"]["clocks_after"] = machine.clocks()
        self._save()

    def finish(self) -> bool:
        """Writes the summary, appends to the repository's table, prints; returns whether something failed."""
        for log in ("tests.log", "sanitizer.log", "bench.log"):
            _trim(self.out / log)
        summary = summarise(self.out)
        (self.out / "summary.txt").write_text(summary.full)
        print(self._merge(), summary.short, sep="\n", end="", flush=True)
        return bool(summary.faults)

    def _merge(self) -> str:
        rows = self.out / worker.RESULTS
        if self.toy or not rows.exists():
            return f"nothing to append to {results.REPOSITORY_CSV}"
        try:
            return f"{results.merge(rows)} rows appended to {results.REPOSITORY_CSV}"
        except (OSError, ValueError) as refusal:
            return f"nothing appended to the repository's table: {refusal}"

    def stop_children(self) -> None:
        self.stopping = True
        for child in list(self.children):
            _kill(child)

    def _tests(self, until: float) -> None:
        if not self._pending("tests"):
            return
        paths = _TOY_TESTS if self.toy else _CHIP_TESTS
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={self.out}/tests.xml"]
        if not self.toy and importlib.util.find_spec("xdist"):
            command += ["-n", str(max(2, (os.cpu_count() or 2) // 2))]
        # Interrupted, pytest still writes its report.
        self._stage("tests", self._child([*command, *paths], "tests.log", until, interrupt_first=True))

    def _sanitizer(self, until: float) -> None:
        target = [sys.executable, "-m", "benchmarks.sanitized"]
        options = ["--target-processes", "application-only", "--error-exitcode", str(MEMORY_ERRORS)]
        path = f"{os.environ['PATH']}:/usr/local/cuda/bin"
        checker = None if self.toy else shutil.which("compute-sanitizer", path=path)
        tools = [tool for tool in (("memcheck", "racecheck") if checker else ("unchecked",)) if self._pending(tool)]
        for i, tool in enumerate(tools):
            # Each stops by itself and so gives a verdict on what it has seen.
            share = time.time() + (until - time.time()) / (len(tools) - i)
            calls = [*target, f"--until={share - _LAST_CALL_SECONDS}"]
            command = [checker, "--tool", tool, *options, *calls] if checker else calls
            ended = self._child(command, "sanitizer.log", share, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
            said = re.findall(r"^(\d+ of \d+) calls finished", (self.out / "sanitizer.log").read_text(), re.MULTILINE)
            self._stage(tool, ended, calls=said[-1] if said and ended.code is not None else "")

    def _warm_up(self, until: float) -> None:
        if not self._pending("warm_up"):
            return
        processes = 1 if self.toy else _compilers()
        shares = _TOY_SHARES if self.toy else processes
        command = [sys.executable, "-m", "benchmarks.worker", f"--out={self.out}", f"--until={until}", *self._toy()]
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "2"}
        with ThreadPoolExecutor(processes) as pool:
            started = [
                pool.submit(self._child, [*command, f"--warm-up={i}/{shares}"], "bench.log", until, environment)
                for i in range(processes)
            ]
        ended = [done.result() for done in started]
        worst = next((e.code for e in ended if e.code != 0), 0)
        self._stage("warm_up", _Ended(worst, max(e.seconds for e in ended)))

    def _child(
        self,
        command: Sequence[str],
        log: str,
        until: float,
        environment: dict[str, str] | None = None,
        *,
        progress: str | None = None,
        interrupt_first: bool = False,
    ) -> _Ended:
        """Runs a command to its end, to ``until``, or to a standstill of the file ``progress``."""
        paths = [str(_ROOT), str(_ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **(environment or {})}
        if self.toy:
            variables["TRITON_INTERPRET"] = "1"
        start = moved = time.time()
        with (self.out / log).open("ab") as output:
            # A session of its own, so that what it starts ends with it.
            child = subprocess.Popen(
                command, cwd=_ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.children.add(child)
        if self.stopping:
            _kill(child)
        try:
            while child.poll() is None:
                now = time.time()
                if progress and (self.out / progress).exists():
                    moved = max(moved, (self.out / progress).stat().st_mtime)
                if now > until or (progress and now - moved > self.stall_seconds):
                    if interrupt_first:
                        _interrupt(child)
                    _kill(child)
                    return _Ended(None, now - start)
                time.sleep(0.05)
            return _Ended(child.returncode, time.time() - start)
        finally:
            self.children.discard(child)

    def _note_crash(self, ended: _Ended) -> bool:
        """Gives up the case at which the measuring process died or stood still; False where it had begun none."""
        events = worker.events(self.out)
        if not events or events[-1]["event"] != "begin":
            return False
        stood_still = f"no progress in {self.stall_seconds} s"
        reason = stood_still if ended.code is None else f"exit code {ended.code}, see bench.log"
        worker.note(self.out, event="crashed", case=events[-1]["case"], reason=reason)
        return True

    @property
    def stall_seconds(self) -> int:
        """How long the measuring process may take to the next step of its progress."""
        return _TOY_STALL_SECONDS if self.toy else _STALL_SECONDS

    def _pending(self, name: str) -> bool:
        return self.state["stages"].get(name, {}).get("status") != "done"

    def _stage(self, name: str, ended: _Ended, **more: str) -> None:
        if self.stopping:
            ended = _Ended(None, ended.seconds)
        status = "cut off" if ended.code is None else "done"
        self.state["stages"][name] = {"status": status, "code": ended.code, "seconds": round(ended.seconds, 1), **more}
        self._save()

    def _save(self) -> None:
        text = json.dumps(self.state, indent=1) + "\n"
        (self.out / worker.RUN).write_text(text)

    def _toy(self) -> list[str]:
        return ["--toy"] if self.toy else []


def _compilers() -> int:
    """How many processes compile beside the tests: a quarter of the processors, and 16 GB of the GPU for each."""
    memory = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return max(1, min((os.cpu_count() or 1) // 4, memory // (16 * 10**9)))


def _interrupt(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(10)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _trim(log: Path) -> None:
    if log.exists() and (size := log.stat().st_size) > _LOG_BYTES:
        content, half = log.read_bytes(), _LOG_BYTES // 2
        log.write_bytes(content[:half] + f"\n... {size - _LOG_BYTES} bytes left out ...\n".encode() + content[-half:])
