"""python -m benchmarks: measures the ops on this GPU; without a GPU, lists launches and minimum bytes."""

import time

_STARTED = time.time()  # so that importing torch counts as part of a run

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from datetime import datetime  # noqa: E402
from pathlib import Path  # noqa: E402

COMMANDS = ("run", "check", "evidence", "static", "host", "compare", "merge", "readme")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    run = commands.add_parser("run", help="measure ops, or whole steps; the default")
    run.add_argument(
        "words", nargs="*", metavar="WORD", help="measure cases whose name has all of these: adain bfloat16"
    )
    run.add_argument("--all", action="store_true", help="every size, type and layout, not only the key problems")
    run.add_argument("--steps", action="store_true", help="whole steps instead of ops")
    run.add_argument("--compiled", action="store_true", help="compare the fused op with torch.compile, not plain torch")
    run.add_argument("--details", action="store_true", help="without a GPU: one line per case")
    run.add_argument(
        "--chip", default="H200", help="without a GPU: the chip whose bandwidth sets the least time (default: H200)"
    )

    check = commands.add_parser("check", help="compare every op and pass with its float64 reference")

    collect = commands.add_parser("evidence", help="run all stages: correctness, chip tests, ops, steps, torch.compile")
    collect.add_argument("--minutes", type=float, default=10, help="the whole run ends within this time (default: 10)")
    collect.add_argument("--commit", help="the measured commit, where the sources are not a git checkout")

    for command in (run, check, collect):
        needed = command is collect
        command.add_argument(
            "--out", type=Path, required=needed, help="folder for the results; created if it does not exist"
        )
        command.add_argument("--toy", action="store_true", help="toy sizes on the CPU, in Triton's interpreter")

    static = commands.add_parser(
        "static", help="compile every kernel for five targets, check its code and compare it with the kept table"
    )
    static.add_argument(
        "words", nargs="*", metavar="WORD", help="print what limits the speed of the cases whose name has all of these"
    )
    static.add_argument(
        "--all", action="store_true", help="print what limits the speed of every case; takes minutes for each target"
    )
    static.add_argument(
        "--op", action="append", metavar="NAME", help="compile only this op's kernels, without the table"
    )
    static.add_argument("--target", action="append", metavar="NAME", help="compile only for this target, such as sm_90")
    static.add_argument("--write", action="store_true", help="write both tables of benchmarks/static anew")

    host = commands.add_parser("host", help="what a call costs the host, over a stub of CUDA's driver; needs no GPU")
    host.add_argument("--op", action="append", default=[], metavar="NAME", help="measure only this op")

    diff = commands.add_parser(
        "compare", help="list the times of run B outside the quartiles of run A; exit code 1 if slower or missing"
    )
    diff.add_argument("before", metavar="A", type=Path, help="a results.csv, or a folder that holds one")
    diff.add_argument("after", metavar="B", type=Path)
    merge = commands.add_parser("merge", help="append rows measured on a GPU to benchmarks/results.csv")
    merge.add_argument("source", type=Path, help="a results.csv, or a folder that holds one")
    draw = commands.add_parser("readme", help="draw the results in the READMEs from benchmarks/results.csv")
    draw.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a file differs")
    return parser


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help"):
        arguments = ["run", *arguments]
    given = _parser().parse_args(arguments)
    if getattr(given, "toy", False):
        # Set before the kernels are imported, which read it.
        os.environ |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    try:
        return _run(given)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as refusal:
        said = (
            f"{refusal.filename}: {refusal.strerror}" if isinstance(refusal, OSError) and refusal.strerror else refusal
        )
        print(f"benchmarks: {said}", file=sys.stderr)
        return 2


def _run(given: argparse.Namespace) -> int:
    import torch

    from benchmarks import compare, evidence, report, results, run, without_gpu
    from fastgan.training.signals import exiting_on_sigterm

    if given.command == "evidence":
        if not given.minutes > 0:
            raise ValueError(f"--minutes is {given.minutes:g}, expected more than 0")
        toy = given.toy or not torch.cuda.is_available()
        if toy and not given.toy:
            print("no GPU: toy sizes on the CPU, which show that the run works and nothing about speed", flush=True)
        until = _STARTED + 60 * given.minutes
        with exiting_on_sigterm():  # so that the stage in progress ends too
            return evidence.collect(_folder(given.out), until=until, toy=toy, commit=given.commit)
    if given.command == "static":
        from benchmarks.static import compiled, passes

        if given.words or given.all:
            listed = run.listed(given.words, of_steps=False, toy=False, every=True)
            chosen = [case for case in listed if (case.dtype_name, case.layout) in passes.KINDS]
            said, sound = passes.lines(chosen, given.target)
        else:
            said, sound = compiled.lines(given.op, given.target, rewrite=given.write)
            if given.write:
                passes.write()
            elif not (given.op or given.target):
                broken = passes.check()
                said, sound = [*said, *broken], sound and not broken
        print("\n".join(said))
        return int(not sound)
    if given.command == "host":
        from benchmarks.static import host_cost

        print("\n".join(host_cost.lines(given.op)))
        return 0
    if given.command == "compare":
        said, slower = compare.compare(results.read(given.before), results.read(given.after))
        print("\n".join(said))
        return int(slower)
    if given.command == "merge":
        print(f"{results.merge(given.source)} rows appended to {results.REPOSITORY_CSV}")
        return 0
    if given.command == "readme":
        differ = report.draw(check=given.check)
        print("\n".join(map(str, differ)) or "nothing differs")
        return int(given.check and bool(differ))

    measurable = given.toy or torch.cuda.is_available()
    if given.command == "run":
        chosen = run.listed(given.words, of_steps=given.steps, toy=given.toy, every=given.all)
        if not measurable:
            if given.steps:
                raise ValueError(
                    "torch sees no GPU, and whole steps need one to be measured; --toy runs small ones on the CPU"
                )
            for line in without_gpu.lines(chosen, given.chip, details=given.details):
                print(line, flush=True)
            return 0
    elif not measurable:
        raise ValueError("torch sees no GPU; --toy checks the ops at toy sizes in Triton's interpreter")
    out = _folder(given.out or Path("bench") / datetime.now().strftime("%Y-%m-%dT%H%M%S"))
    if given.command == "check":
        return int(run.check_all(out, toy=given.toy) > 0)
    # In the folder of an evidence run the rows get that run's identity.
    state = out / evidence.STATE
    identity = json.loads(state.read_text())["identity"] if state.exists() else results.identity()
    wrong = run.measure_all(chosen, out, identity, compiled=given.compiled, toy=given.toy)
    if (out / results.FILE).exists():
        print("\n".join(report.lines(results.read(out))))
        print(f"results in {out / results.FILE}")
    return int(wrong > 0)


def _folder(out: Path) -> Path:
    """Creates ``out`` and tests that it is writable, before there are results to lose."""
    out.mkdir(parents=True, exist_ok=True)
    probe = out / f".writable-{time.time_ns()}"
    probe.touch()
    probe.unlink()
    return out.resolve()


if __name__ == "__main__":
    sys.exit(main())
