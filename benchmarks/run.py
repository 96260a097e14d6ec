"""Checks and measures cases in this process; writes progress before and after each case, and rows when they exist.

Cases that the folder already holds are skipped, as is a case during which an earlier process died.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks import cases, measure, results, steps
from benchmarks.cases import Case
from benchmarks.devices import device
from benchmarks.measure import TOY, Device, Effort, Refusal, Row
from benchmarks.steps import Step
from fastgan_kernels import use_backend

PROGRESS = "cases.jsonl"
_STILL_SECONDS = 100
DEVICE_FAULT = 70
"""Exit code of a process whose device has failed."""


def listed(words: Sequence[str], *, of_steps: bool, toy: bool, every: bool) -> list[Case] | list[Step]:
    """The cases whose names have all ``words``, most important first; without ``every`` only the most important.

    Raises:
        ValueError: if there is none.
    """
    everything = steps.steps(toy=toy) if of_steps else cases.cases(toy=toy)
    found = [case for case in everything if all(word in case.key for word in words)]
    if not found:
        names = dict.fromkeys(case.key.split("/")[0] for case in everything)
        raise ValueError(f"no case has all of {' '.join(words)!r} in its name; the names begin with {', '.join(names)}")
    return found if every or of_steps else [case for case in found if case.rank == 0] or found


def measure_all(
    chosen: Sequence[Case] | Sequence[Step],
    out: Path,
    identity: Row,
    *,
    compiled: bool = False,
    toy: bool = False,
) -> int:
    """Appends rows to ``out``/results.csv; returns how often a fused op or step was refused.

    Args:
        out: a folder that can be written.
        identity: the columns that say where the rows come from.
        compiled: measure torch.compile instead of plain torch.
    """
    where, effort = device(), TOY if toy else Effort()
    measured = {True: steps.measure, False: measure.measure}

    def one(case: Case | Step) -> list[Refusal]:
        rows, refusals = measured[isinstance(case, Step)](case, where, effort, compiled=compiled)
        results.append(out / results.FILE, [{**identity, **row} for row in rows])
        return refusals

    suffix = "/compiled" if compiled else ""
    return _each({case.key + suffix: partial(one, case) for case in chosen}, where, out)


def check_all(out: Path, *, toy: bool = False) -> int:
    """Compares every op and pass with its float64 reference, first all in float32; returns how many are wrong."""
    where = device()
    smallest: dict[tuple[object, ...], Case] = {}
    for case in cases.cases(toy=toy):
        kind = case.dtype_name, case.layout
        if kind in (("float32", "contiguous"), ("bfloat16", "channels_last")):
            found = smallest.setdefault((kind[0], case.op.name, case.pass_), case)
            if case.bytes < found.bytes:
                smallest[kind[0], case.op.name, case.pass_] = case

    def one(case: Case) -> list[Refusal]:
        measure.seed(case)
        fused = {"fused": cases.implementations(case)["fused"]}
        return measure.check(case, fused, cases.draw(case, where.place), where)

    ordered = sorted(smallest.values(), key=lambda case: case.dtype_name, reverse=True)
    return _each({case.key + "/check": partial(one, case) for case in ordered}, where, out)


def refused(out: Path) -> list[str]:
    """A sentence for each refusal, failure and crash so far."""
    found = []
    for case, event in _last_events(out).items():
        died = ["the process died or hung"] if event["event"] == "begin" else []
        found += [f"{case}: {reason}" for reason in (*died, *event.get("refused", ()))]
    return found


def forgive(out: Path) -> None:
    """Marks a case that was cut off to be run again, unless it hung: no case takes as long as ``_STILL_SECONDS``."""
    for case, event in _last_events(out).items():
        if event["event"] == "begin" and time.time() - event["at"] < _STILL_SECONDS:
            _note(out, case=case, event="cut off")


def _each(named: dict[str, Callable[[], list[Refusal]]], where: Device, out: Path) -> int:
    measure.without_tf32()
    # A case that has only begun is done too: it may have killed its process.
    done = {case for case, event in _last_events(out).items() if event["event"] != "cut off"}
    wrong = 0
    with use_backend("triton"):
        for key, one in named.items():
            if key in done:
                continue
            _note(out, case=key, event="begin")
            try:
                reasons = [(r.implementation, f"{r.implementation} {r.reason}") for r in one()]
            except KeyboardInterrupt:
                forgive(out)
                raise
            except Exception as failure:
                _exit_after_a_fault(where)
                reasons = [("fused", f"failed: {type(failure).__name__}: {failure}"[:300])]
            wrong += sum(name.startswith("fused") for name, _ in reasons)
            said = [reason for _, reason in reasons]
            _note(out, case=key, event="end", refused=said)
            print(f"{key}: {'; '.join(said) or 'done'}", flush=True)
    return wrong


def _exit_after_a_fault(where: Device) -> None:
    """Ends this process if the device has failed, since nothing works any more; a new one continues after the case."""
    try:
        where.synchronize()
    except RuntimeError as fault:
        print(fault, file=sys.stderr)
        raise SystemExit(DEVICE_FAULT) from fault


def _note(out: Path, **event: object) -> None:
    with (out / PROGRESS).open("a") as file:
        # The line break comes first, so that this line does not continue one that a kill cut short.
        file.write("\n" + json.dumps({**event, "at": time.time()}))


def _last_events(out: Path) -> dict[str, dict]:
    """The last event of each case that has begun."""
    path = out / PROGRESS
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[event["case"]] = event
    return found
