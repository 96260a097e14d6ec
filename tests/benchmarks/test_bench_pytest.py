"""`pytest benchmarks`, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import TOY

_ROOT = Path(__file__).parents[2]
_CASE = "bias_act/toy_4/float32/contiguous/forward"
_PLANTED = """
import benchmarks.measure as measure

of_the_registry = measure.binders
measure.binders = lambda case, backend: {**of_the_registry(case, backend), "planted": measure.planted(case)}
"""


def _pytest(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(map(str, (_ROOT, _ROOT / "kernels", tmp_path)))
    # Options of the pytest that runs this test, such as -n, are not those of a user: in parallel nothing is timed.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_the_right_are_timed_and_the_wrong_fail(tmp_path: Path):
    (tmp_path / "planted_plugin.py").write_text(_PLANTED)
    report = tmp_path / "report.json"
    # "forward" is part of no other pass's name.
    chosen = f"{_CASE} and (fused or eager or planted)"
    done = _pytest(tmp_path, "-p", "planted_plugin", "benchmarks", "-k", chosen, f"--benchmark-json={report}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert f"FAILED benchmarks/test_cases.py::test_case[{_CASE}/planted]" in done.stdout
    assert "wrong, not timed: error 0." in done.stdout
    assert "no GPU, toy sizes in Triton's interpreter: this proves the run and nothing about speed" in done.stdout

    written = json.loads(report.read_text())
    assert written["machine_info"]["chip"]
    timed = {entry["name"]: entry for entry in written["benchmarks"]}
    assert set(timed) == {f"test_case[{_CASE}/{provider}]" for provider in ("fused", "eager")}
    for entry in timed.values():
        info = entry["extra_info"]
        assert entry["group"] == _CASE
        assert entry["stats"]["rounds"] == TOY.rounds
        assert info["bytes"] == 4 * (2 * 2 * 4 * 4 * 4 + 4)  # x, y and the bias
        assert info["gb_per_s"] == round(info["bytes"] / entry["stats"]["median"] / 1e9, 3)
        assert info["device"] == "cpu"
        assert {"chip", "commit", "torch", "triton"} <= info.keys()


def test_pytest_alone_leaves_them_out(tmp_path: Path):
    left_out = [f"--ignore=tests/{folder}" for folder in ("kernels", "fastgan")]  # they take long to collect
    done = _pytest(tmp_path, "--collect-only", "-q", *left_out)
    assert "tests/benchmarks/test_bench_pytest.py" in done.stdout
    assert "test_cases.py" not in done.stdout
