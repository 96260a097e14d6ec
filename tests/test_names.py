"""What others install does not change what our names mean."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


# torch-fidelity, of the extra ``evaluation``, has a package ``tests`` at its top.
@pytest.mark.parametrize(
    "command",
    [
        ("pytest", "--collect-only", "-q", "tests/kernels/test_noise.py"),
        ("tests.breaks", "no such break"),
    ],
    ids=["pytest", "module"],
)
def test_foreign_packages_of_our_names_are_not_taken_for_ours(command: tuple[str, ...], tmp_path: Path):
    for name in ("benchmarks", "docs", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('a foreign {name}')")
    run = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
