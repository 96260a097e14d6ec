"""The end of an evidence run in words: a short table, then what failed and what is missing."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results, tables, training, worker
from benchmarks.aims import judge
from benchmarks.registry import key_of
from benchmarks.suite import AnyCase, suite

MEMORY_ERRORS = 9  # the exit code that compute-sanitizer is told to end with where it found something
_LISTED = 25  # lines of failures before "and n more"


@dataclass(frozen=True)
class Summary:
    """``full`` is for the file, ``short`` for the screen; ``faults`` are those that make the run fail."""

    full: str
    short: str
    faults: tuple[str, ...]


def summarise(out: Path) -> Summary:
    run = json.loads((out / worker.RUN).read_text())
    toy, stages = run["toy"], run["stages"]
    listed = suite(toy=toy)
    rows = results.read(out / worker.RESULTS) if (out / worker.RESULTS).exists() else []
    events = worker.events(out)
    by_case: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        by_case.setdefault(key_of(row), {})[row["provider"]] = row

    tests, test_faults = _tests(out, stages)
    sanitizer, sanitizer_faults = _sanitizer(stages)
    refused, bench_faults = _refused(listed, events, by_case)
    if (bench := stages.get("bench")) is not None and bench["code"]:
        bench_faults.append(f"the measuring process ended with exit code {bench['code']}, see bench.log")
    missing = [case.key for case in listed if case.key not in worker.finished(out)]
    faults = (*test_faults, *sanitizer_faults, *bench_faults)

    identity = run["identity"]
    title = " ".join(f"{name} {identity[name]}" for name in results.IDENTITY if identity[name])
    head = [f"evidence: {title}"]
    tail = [*_aims(rows, toy=toy), tests, sanitizer, *refused]
    tail.append(f"benchmark: {len(listed) - len(missing)} of {len(listed)} cases finished")
    if missing:
        tail.append(f"missing: {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}")
    tail.append("FAULTS: " + "; ".join(faults) if faults else "no faults")
    # On the screen the rarer types and layouts are left out.
    common = {case.key for case in listed if case.rank < 2}
    full, short = (
        "\n".join([*head, *tables.text(shown), *training.lines(tables.measured(shown)), *tail]) + "\n"
        for shown in (rows, [row for row in rows if key_of(row) in common])
    )
    return Summary(full, short, faults)


def _aims(rows: list[dict[str, str]], *, toy: bool) -> list[str]:
    """How many of the stated aims are met, and those that are not, the furthest off first."""
    if toy:
        return ["aims: judged on a GPU only"]
    verdicts = judge(rows)
    short = sorted((v for v in verdicts if not v.met), key=lambda v: v.measured / v.wanted)
    lines = [f"aims: {len(verdicts) - len(short)} of {len(verdicts)} met", *(f"fell short: {v}" for v in short)]
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"and {len(lines) - _LISTED} more"]
    return lines


def _refused(
    listed: Sequence[AnyCase], events: list[dict], by_case: dict[str, dict[str, dict[str, str]]]
) -> tuple[list[str], list[str]]:
    lines, faults = [], []
    planted_seen = set()
    for event in events:
        for refusal in event.get("refused", ()):
            if refusal["provider"] == "planted":
                planted_seen.add(event["case"])
                continue
            lines.append(f"{refusal['kind']}, not timed: {refusal['provider']} in {event['case']}: {refusal['reason']}")
            if refusal["provider"] == "fused":
                faults.append(f"fused {refusal['kind']} in {event['case']}")
        if event["event"] in ("failed", "crashed"):
            lines.append(f"{event['event']}: {event['case']}: {event['reason']}")
            faults.append(f"{event['case']} {event['event']}")
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"and {len(lines) - _LISTED} more in {worker.PROGRESS}"]
    escaped = [key for key, rows in by_case.items() if "planted" in rows]
    faults += [f"the planted wrong kernel was timed in {key}" for key in escaped]
    expected = len(worker.first_forwards(listed))
    lines.append(f"planted wrong kernels refused: {len(planted_seen)} of {expected}")
    return lines, faults


def _tests(out: Path, stages: dict[str, dict]) -> tuple[str, list[str]]:
    stage = stages.get("tests")
    if stage is None:
        return "tests: not run", []
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    try:
        for suite in ElementTree.parse(out / "tests.xml").getroot().iter("testsuite"):
            for name in counts:
                counts[name] += int(suite.get(name, 0))
    except (OSError, ElementTree.ParseError):
        return f"tests: {stage['status']} after {stage['seconds']} s, no report, see tests.log", ["no test report"]
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    bad = counts["failures"] + counts["errors"]
    faults = [f"{bad} tests failed"] if bad else []
    if stage["status"] == "done" and stage["code"] and not bad:
        faults.append(f"pytest ended with exit code {stage['code']}")
    return f"tests: {said} ({stage['status']} after {stage['seconds']} s)", faults


def _sanitizer(stages: dict[str, dict]) -> tuple[str, list[str]]:
    said, faults = [], []
    for tool in ("memcheck", "racecheck", "unchecked"):
        if (stage := stages.get(tool)) is None:
            continue
        code, calls = stage["code"], stage.get("calls") or "an unknown number of"
        if code is None:
            said.append(f"{tool} {stage['status']} after {stage['seconds']} s")
        elif code == 0:
            said.append(
                f"{tool} clean in {calls} calls" if tool != "unchecked" else f"not there, {calls} calls ran unchecked"
            )
        elif code == MEMORY_ERRORS:
            said.append(f"{tool} FOUND ERRORS, see sanitizer.log")
            faults.append(f"{tool} found errors")
        else:
            said.append(f"{tool} did not run (exit code {code}), see sanitizer.log")
            if tool == "unchecked":
                faults.append("the calls for the memory checker failed")
    return "compute-sanitizer: " + (", ".join(said) or "not run"), faults
