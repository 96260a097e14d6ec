"""Every kernel, compiled for sm_80, sm_90, sm_100 and gfx942: no rule is broken and the table is what was committed."""

import json

import pytest

from tests.kernels.inspection.uninterpreted import run_python

SWEEP = """
import json
from fastgan_kernels.inspection.compiled import inspect_compiled
from fastgan_kernels.inspection.problems import SWEEP
print(json.dumps(inspect_compiled(SWEEP)[1]))
"""


COMPARE = ("-m", "fastgan_kernels.inspection", "compiled", "--compare", "kernels/compiled.csv")


def test_the_table_is_what_the_kernels_compile_to_and_breaks_no_rule():
    """Compiled for one target of each maker; for the others the table has what would be launched."""
    # To refresh it: python -m fastgan_kernels.inspection compiled --write kernels/compiled.csv
    run = run_python(*COMPARE, "--target", "sm_90", "--target", "gfx942")
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


@pytest.mark.exhaustive
def test_the_table_is_what_the_kernels_compile_to_for_every_target():
    run = run_python(*COMPARE)
    assert run.returncode == 0, run.stdout + run.stderr[-2000:]


@pytest.mark.exhaustive
def test_no_shape_type_or_layout_breaks_a_rule():
    run = run_python("-c", SWEEP)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout) == []
