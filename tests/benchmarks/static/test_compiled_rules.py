"""The compile check sees what it is there to see: each faulty kernel is found, on every target that it harms.

The faulty kernels take 50 CPU seconds to compile, so this is exhaustive, as the check itself.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import triton

from benchmarks.static.compiled import Row, compare, read, write
from tests.benchmarks.static.uninterpreted import run_python

pytestmark = pytest.mark.exhaustive

ALL = {"sm_90", "gfx942"}


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    run = run_python(str(Path(__file__).with_name("faulty_kernels.py")))
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


@pytest.mark.parametrize("case", ["sound", "filtering"])
def test_a_sound_kernel_breaks_no_rule(found, case):
    assert found[case]["findings"] == []
    assert {row["target"] for row in found[case]["rows"]} == ALL


@pytest.mark.parametrize(
    ("case", "text", "targets"),
    [
        ("spilling", r"has \d{3,} stack bytes per thread, expected at most 8", ALL),
        ("transposing", r"has \d{3,} shared stores per thread, expected at most 128", ALL),
        ("transposing", r"has 127 barriers per thread, expected at most 64", ALL),
        ("transposing", r"has 5\d{3} instructions per thread, expected at most 4096", {"sm_90"}),
        ("scalar", "has no load wider than 4 bytes where 16 are possible", ALL),
        ("scalar", "has no store wider than 4 bytes where 16 are possible", ALL),
        ("32 warps", "has 2048 threads per program, expected at most 1024", {"gfx942"}),
        ("atomic", "uses atomics", ALL),
        ("broken", "does not compile: CompileTimeAssertionFailure", ALL),
    ],
)
def test_a_faulty_kernel_is_found(found, case, text, targets):
    matching = [finding for finding in found[case]["findings"] if re.search(text, finding)]
    assert {target for finding in matching for target in re.search(r"\(([^()]*)\)$", finding)[1].split(", ")} == targets


@pytest.mark.parametrize("case", ["32 warps", "broken"])
def test_a_kernel_with_one_fault_has_one_finding(found, case):
    assert len(found[case]["findings"]) == 1


def test_the_table_is_compared_row_by_row(found, tmp_path):
    rows = [Row(**row) for row in found["sound"]["rows"]]
    write(rows, tmp_path / "compiled.csv")
    assert read(tmp_path / "compiled.csv") == (triton.__version__, rows)
    assert compare(rows, rows) == []
    assert compare(rows, rows[1:]) == [f"__main__.sound_kernel for {rows[0].target}: in the table, no longer launched"]
    assert compare(rows[1:], rows) == [f"__main__.sound_kernel for {rows[0].target}: not in the table"]
    other = replace(rows[0], registers=99, barriers=3)
    assert compare(rows, [other, *rows[1:]]) == [
        f"__main__.sound_kernel for {rows[0].target}: registers {rows[0].registers} -> 99, barriers 0 -> 3"
    ]
