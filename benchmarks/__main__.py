"""python -m benchmarks: the evidence run, its rows in the table and the READMEs, comparison of runs, predictions."""

import time

_STARTED = time.time()  # importing torch belongs to the time of the run

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks import compare, evidence, readme, results  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("evidence", help="tests, memory checker and benchmark of all ops on this machine")
    run.add_argument("--out", type=Path, required=True, help="folder of at most eight files; run again to go on")
    run.add_argument("--minutes", type=float, default=9, help="the whole run ends within this time (default: 9)")
    run.add_argument("--toy", action="store_true", help="toy sizes on the CPU; chosen by itself without a GPU")
    run.add_argument("--commit", help="the commit that is measured, where the sources are not a git checkout")

    merge = commands.add_parser("merge", help="append the rows of an evidence run that a GPU gave")
    merge.add_argument("csv", type=Path, help="results.csv of an evidence folder")

    draw = commands.add_parser("readme", help="draw the results in the READMEs anew from benchmarks/results.csv")
    draw.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a file differs")

    diff = commands.add_parser("compare", help="what moved beyond noise from run A to run B; 1 if something is slower")
    diff.add_argument("a", metavar="A", type=Path, help="before: a results.csv, or a folder that holds one")
    diff.add_argument("b", metavar="B", type=Path, help="after")

    predict = commands.add_parser("predict", help="what can be said of the kernels without a GPU")
    predict.add_argument("ops", nargs="*", metavar="OP", help="names of ops (default: all)")
    predict.add_argument("--chip", default="H200", help="name in benchmarks/chips.py (default: H200)")
    predict.add_argument("--all", action="store_true", help="every size, type and layout, not only the key sizes")
    predict.add_argument("--quick", action="store_true", help="no counted traffic: seconds instead of a minute")
    predict.add_argument("--out", type=Path, help="CSV of predictions to write")

    given = parser.parse_args(arguments)
    try:
        if given.command == "evidence":
            if not given.minutes > 0:
                raise ValueError(f"--minutes is {given.minutes:g}, expected more than 0")
            return evidence.run(given.out, until=_STARTED + 60 * given.minutes, toy=given.toy, commit=given.commit)
        if given.command == "readme":
            found = readme.differences() if given.check else readme.write()
            print("\n".join(map(str, found)) or "nothing differs")
            return 1 if given.check and found else 0
        if given.command == "compare":
            comparison = compare.compare(given.a, given.b)
            print(compare.report(comparison))
            return comparison.exit_code

        if given.command == "predict":
            from benchmarks import prediction  # with rich, which a run of evidence does without

            return prediction.run(given.ops, given.chip, every=given.all, counted=not given.quick, out=given.out)
        print(f"{results.merge(given.csv)} rows appended to {results.REPOSITORY_CSV}")
    except (evidence.Refused, OSError, ValueError) as refusal:
        print(f"benchmarks: {refusal}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
