"""``python -m fastgan_kernels.inspection compiled``: compiles every kernel for four targets and checks the result."""

import argparse
import sys
from pathlib import Path

import triton

from fastgan_kernels.inspection.compiled import (
    compare_launches,
    compare_tables,
    inspect_compiled,
    read_table,
    write_table,
)
from fastgan_kernels.inspection.launches import TARGETS
from fastgan_kernels.inspection.problems import PROBLEMS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fastgan_kernels.inspection")
    commands = parser.add_subparsers(required=True)
    compiled = commands.add_parser("compiled", help="compile every kernel for four targets and check the result")
    compiled.add_argument("--write", type=Path, metavar="CSV", help="write the table")
    compiled.add_argument("--compare", type=Path, metavar="CSV", help="fail where this table differs")
    compiled.add_argument("--op", action="append", metavar="NAME", help="check the rules for this op alone")
    compiled.add_argument("--target", action="append", choices=TARGETS, help="compile for this target alone")
    arguments = parser.parse_args()
    if arguments.target and arguments.write:
        parser.error("--target makes a part of the table, and --write needs all of it")
    if arguments.op and (arguments.write or arguments.compare):
        parser.error("--op makes a part of the table, and --write and --compare need all of it")

    targets = arguments.target or list(TARGETS)
    rows, findings = inspect_compiled([p for p in PROBLEMS if not arguments.op or p.op in arguments.op], targets)
    kernels = {row.kernel for row in rows}
    registers, shared = max(row.registers for row in rows), max(row.shared_bytes for row in rows)
    print(f"triton {triton.__version__}: {len(rows)} rows, {len(kernels)} kernels for {len(targets)} targets")
    print(f"at most {registers} registers a thread and {shared} bytes of shared memory a program")
    if arguments.write:
        write_table(rows, arguments.write)
    if arguments.compare:
        version, committed = read_table(arguments.compare)
        if version == triton.__version__:
            findings += compare_tables([row for row in committed if row.target in targets], rows)
            findings += compare_launches(committed, PROBLEMS, TARGETS.keys() - set(targets))
        else:
            print(f"{arguments.compare} is of triton {version}: only the rules were checked")
    for finding in findings:
        print(finding)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
