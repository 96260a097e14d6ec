"""The compiled table sees what it is there to see: each faulty kernel is found, on every target that it harms."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import triton

from fastgan_kernels.inspection.compiled import Row, compare_tables, read_table, write_table
from tests.kernels.inspection.uninterpreted import run_python

ALL = {"sm_80", "sm_90", "sm_100", "gfx942"}


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    run = run_python(str(Path(__file__).with_name("faulty_kernels.py")))
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def targets_of(findings: list[str], text: str) -> set[str]:
    matching = [finding for finding in findings if re.search(text, finding)]
    return {target for finding in matching for target in re.search(r"\(([^()]*)\)$", finding)[1].split(", ")}


@pytest.mark.parametrize(
    "case",
    ["sound", "sound and huge", "narrow offset, small", "late widening, small", "loop, small", "table", "table, huge"],
)
def test_a_sound_kernel_breaks_no_rule(found, case):
    assert found[case]["findings"] == []
    assert {row["target"] for row in found[case]["rows"]} == ALL


@pytest.mark.parametrize(
    ("case", "text", "targets"),
    [
        ("spilling", r"spills \d{3,} registers and keeps \d{4} bytes", ALL - {"gfx942"}),
        ("spilling on AMD", r"spills \d{3,} registers and keeps \d{4} bytes", {"gfx942"}),
        ("transposing", r"stores to shared memory \d{4} times a thread, 128 at most", ALL),
        ("transposing", r"has 127 barriers, 40 at most", ALL),
        ("transposing", r"has 5\d{3} instructions, 4096 at most", ALL - {"gfx942"}),
        ("scalar", "accesses x_ptr by 4 bytes where 16 are possible", ALL),
        ("scalar", "accesses y_ptr by 4 bytes where 16 are possible", ALL),
        ("narrow offset", "adds 32-bit offsets to x_ptr, which has 3221225472 elements", ALL),
        ("narrow offset", "adds 32-bit offsets to y_ptr, which has 3221225472 elements", ALL),
        ("late widening", r"overflows: offset \(arith.muli\) can be 3221224448", ALL),
        ("loop", r"overflows: offset \(arith.muli\) can be 3220176896", ALL),
        ("32 warps", "has 2048 threads in a program, 1024 at most are possible", {"gfx942"}),
        ("atomic", "uses atomics", ALL),
        ("table, narrow offset", r"adds 32-bit offsets to \*pointers_ptr, which has 3221225472 elements", ALL),
        ("table, narrow access", r"accesses \*pointers_ptr by 4 to 4 bytes where 16 to 16 are possible", ALL),
        ("broken", "does not compile: CompileTimeAssertionFailure", ALL),
    ],
)
def test_a_faulty_kernel_is_found(found, case, text, targets):
    assert targets_of(found[case]["findings"], text) == targets


@pytest.mark.parametrize("case", ["late widening", "32 warps", "atomic", "broken"])
def test_a_kernel_with_one_fault_has_one_finding(found, case):
    assert len(found[case]["findings"]) == 1


@pytest.mark.parametrize(("case", "width", "sass"), [("sound", 16, ".128"), ("scalar", 4, "")])
def test_the_widths_of_the_table_are_those_of_the_machine_code(found, case, width, sass):
    assert {(row["loads"], row["stores"]) for row in found[case]["rows"]} == {(f"x_ptr:{width}", f"y_ptr:{width}")}
    assert found[case]["sass"] == [f"LDG.E{sass}", f"STG.E{sass}"]


def test_the_table_has_what_pointers_from_a_table_point_to(found):
    rows = [row for row in found["table"]["rows"] if row["kernel"].endswith("table_kernel")]
    assert {row["target"] for row in rows} == ALL
    assert {row["loads"] for row in rows} == {"pointers_ptr:8 *pointers_ptr:16 sizes_ptr:8"}
    assert {row["stores"] for row in rows} == {"*pointers_ptr:16"}
    written = {row["arguments"] for row in found["table"]["rows"]} - {row["arguments"] for row in rows}
    assert written
    assert all(re.fullmatch(r"table_ptr:\*i64\S* tensors:16x\*fp32", arguments) for arguments in written)


def test_a_table_is_read_as_it_was_written(found, tmp_path):
    rows = [Row(**row) for case in ("sound", "scalar") for row in found[case]["rows"]]
    write_table(rows, tmp_path / "compiled.csv")
    version, read = read_table(tmp_path / "compiled.csv")
    assert read == rows
    assert version == triton.__version__


def test_tables_are_compared_row_by_row(found):
    rows = [Row(**row) for row in found["sound"]["rows"]]
    assert compare_tables(rows, rows) == []
    assert compare_tables(rows, rows[1:]) == [
        "__main__.sound_kernel (4x4x32x32 float32 contiguous) for sm_80: in the table but no longer launched"
    ]
    assert compare_tables(rows[1:], rows) == [
        "__main__.sound_kernel (4x4x32x32 float32 contiguous) for sm_80: launched but not in the table"
    ]
    assert compare_tables(rows, [replace(rows[0], registers=99), *rows[1:]]) == [
        "__main__.sound_kernel (4x4x32x32 float32 contiguous) for sm_80: registers is 99 now, 18 in the table"
    ]
