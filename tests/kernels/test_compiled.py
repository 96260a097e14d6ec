"""Every kernel, compiled ahead of time: no rule is broken and the tables are what was committed."""

import pytest

from tests.benchmarks.static.uninterpreted import run_python

STATIC = ("-m", "benchmarks", "static")


def test_kernels_compiled_for_one_target_break_no_rule():
    """Those of adain: rows in registers, loops and spans in both layouts, all four types, and the sums of partials."""
    run = run_python(*STATIC, "--op", "adain", "--target", "sm_90")
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


@pytest.mark.exhaustive
def test_the_tables_are_what_the_kernels_compile_to_and_break_no_rule():
    """Five targets, about 200 specializations each, and every case of 4 MB and more for an H200: eight CPU minutes."""
    # To refresh it: python -m benchmarks static --write
    run = run_python(*STATIC)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]
