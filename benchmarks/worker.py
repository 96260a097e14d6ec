"""The process that measures: one line of progress before and after each case, rows as soon as they exist.

A fault of the device ends a process for good, so the driver (evidence.py) starts another one, which goes on from what
the two files say.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.devices import CpuDevice, CudaDevice, device
from benchmarks.measure import TOY, Effort, binders
from benchmarks.passes import configure_compilation, draw
from benchmarks.registry import Case, key_of
from benchmarks.steps.step import StepCase
from benchmarks.suite import AnyCase, measure_any, suite
from fastgan_kernels import use_backend

PROGRESS = "bench.jsonl"
RESULTS = "results.csv"
RUN = "evidence.json"
_FINAL = {"done", "failed", "crashed"}


def note(out: Path, **event: object) -> None:
    with (out / PROGRESS).open("a") as file:
        file.write(json.dumps(event) + "\n")


def events(out: Path) -> list[dict]:
    """All progress so far; a line that a kill cut short is no progress."""
    path = out / PROGRESS
    noted = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            noted.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return noted


def finished(out: Path) -> set[str]:
    """Keys of the cases that need no other attempt."""
    keys = {event["case"] for event in events(out) if event["event"] in _FINAL}
    if (out / RESULTS).exists():
        keys |= {key_of(row) for row in results.read(out / RESULTS)}
    return keys


def first_forwards(listed: Sequence[AnyCase]) -> set[str]:
    """The first forward case of each op: there a wrong kernel is planted, to see the check refuse it on this chip."""
    first: dict[str, str] = {}
    for case in listed:
        if isinstance(case, Case) and case.pass_ == "forward":
            first.setdefault(case.op.name, case.key)
    return set(first.values())


def bench(out: Path, until: float, *, toy: bool) -> None:
    """Measures what is left, most important first, until the time is up (seconds since the epoch)."""
    identity = json.loads((out / RUN).read_text())["identity"]
    parent = os.getppid()
    configure_compilation()
    where = device()
    effort = TOY if toy else Effort()
    listed = suite(toy=toy)
    planted = first_forwards(listed)
    skip = finished(out)
    alive = partial(os.utime, out / PROGRESS)
    with use_backend("triton"):
        for case in listed:
            # A driver that was killed cannot stop this process.
            if time.time() > until or os.getppid() != parent:
                return
            if case.key in skip:
                continue
            note(out, event="begin", case=case.key)
            start = time.time()
            try:
                rows, refusals = measure_any(case, where, effort, plant=case.key in planted, alive=alive)
            except Exception as failure:
                where.synchronize()  # raises again after a fault of the device
                note(out, event="failed", case=case.key, reason=f"{type(failure).__name__}: {failure}"[:300])
                continue
            results.append(out / RESULTS, [{**identity, **row} for row in rows])
            refused = [vars(refusal) for refusal in refusals]
            note(out, event="done", case=case.key, seconds=round(time.time() - start, 3), refused=refused)


def warm_up(share: int, of: int, until: float, *, toy: bool) -> None:
    """Fills the caches of Triton and Inductor with the kernels of every ``of``-th case, beside the untimed stages."""
    configure_compilation()
    where: CpuDevice | CudaDevice = device()
    effort = TOY if toy else Effort()
    with use_backend("triton"):
        for case in suite(toy=toy)[share::of]:
            if time.time() > until:
                return
            torch._dynamo.reset()
            try:
                _compile(case, where, effort)
            except Exception as failure:  # the benchmark meets it again and reports it
                where.synchronize()
                print(f"warm-up of {case.key}: {failure}", flush=True)


def _compile(case: AnyCase, where: CpuDevice | CudaDevice, effort: Effort) -> None:
    compiled = ("fused", "compile", "fused_compile", "compiled", "tuned")
    if isinstance(case, Case):
        operands = draw(case, where.torch_device)
        for name, binder in binders(case, effort.compile_backend).items():
            if name in compiled:
                binder(operands)()
    elif isinstance(case, StepCase):
        setting = case.setting(where.torch_device, effort.compile_backend)
        for name, build in case.step.providers.items():
            if name in compiled:
                build(setting)()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--warm-up", metavar="I/N", help="only fill the caches, for every N-th case from the I-th on")
    given = parser.parse_args()
    if given.warm_up:
        share, of = map(int, given.warm_up.split("/"))
        warm_up(share, of, given.until, toy=given.toy)
    else:
        bench(given.out, given.until, toy=given.toy)


if __name__ == "__main__":
    main()
