"""Every kernel, compiled ahead of time: no rule is broken and the tables are what was committed."""

import pytest

from tests.benchmarks.static.uninterpreted import run_python

STATIC = ("-m", "benchmarks", "static")


def test_kernels_compiled_for_one_target_break_no_rule():
    """Those of adain: rows in registers, loops and spans in both layouts, all four types, and the sums of partials."""
    run = run_python(*STATIC, "--op", "adain", "--target", "sm_90")
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


@pytest.mark.exhaustive
def test_the_table_is_what_the_kernels_compile_to_and_they_break_no_rule():
    """About 200 specializations for each of five targets: four CPU minutes."""
    # To refresh it: python -m benchmarks static --write
    targets = ("sm_80", "sm_90", "sm_100", "sm_120", "gfx942")
    run = run_python(*STATIC, *(word for target in targets for word in ("--target", target)))
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


@pytest.mark.judged
def test_no_launch_of_4_mb_misses_a_bound_unless_it_is_an_open_finding():
    """Every case of 4 MB and more for an H200, with the CPU time of its compilation: five CPU minutes more."""
    run = run_python(*STATIC)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
