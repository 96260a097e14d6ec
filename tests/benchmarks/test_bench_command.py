"""`fastgan bench` as a user calls it, on a machine without a GPU."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import bench, results
from benchmarks.old_ops import OPS
from benchmarks.registry import cases
from benchmarks.suite import suite
from fastgan import cli
from fastgan.training.config import SettingsError
from fastgan_kernels import reference

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")

_ROOT = Path(__file__).parents[2]


def _fastgan(*args: object, interpreted: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'kernels'}"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "fastgan", "bench", *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_toy_sizes_are_measured_reported_and_marked(tmp_path: Path):
    out = tmp_path / "out"
    done = _fastgan("--toy", "bias_act", "--pass", "forward", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Toy size on a CPU" in done.stdout
    rows = results.read(out / "results.csv")
    assert {row["op"] for row in rows} == {"limit", "bias_act"}
    assert {row["pass"] for row in rows} == {"forward"}
    assert {row["provider"] for row in rows if row["op"] == "bias_act"} >= {"fused", "eager", "compile", "clone"}
    assert (out / "report.html").exists()
    assert f"{len(rows)} results in" in done.stdout.replace("\n", "")

    again = _fastgan("--toy", "bias_act", "--out", out)
    assert again.returncode == 2
    assert again.stderr.endswith("holds results already; give another folder\n")
    assert results.read(out / "results.csv") == rows


def test_without_a_gpu_nothing_is_timed(tmp_path: Path):
    done = _fastgan("interpolate", "--chip", "A100", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch sees no GPU, so nothing is timed" in done.stdout
    assert "PREDICTION for A100, not measured" in done.stdout
    assert "gradient_norms" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.csv"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["bias_akt"], "fastgan: no case has the op 'bias_akt'; did you mean 'bias_act'?"),
        (
            ["--dtype", "float64"],
            "fastgan: no case has the dtype 'float64', expected one of bfloat16, float16, float32",
        ),
        (["--pass", "third"], "fastgan: no case has the pass 'third', expected one of backward, double_backward, "),
        (["wgan_gp_step"], "fastgan: torch sees no GPU, so nothing can be timed; a prediction is made op by op, and "),
        (["power_iteration", "--pass", "backward"], "fastgan: no case has op power_iteration, pass backward; without "),
        (["bias_act", "--chip", "H300"], "fastgan: no chip is called 'H300', expected one of A100, "),
        (["--compare", "nowhere", "nowhere"], "fastgan: "),
        (["adain", "--compare", "a", "b"], "fastgan: --compare takes two whole runs"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(args: list[str], sentence: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", *args])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.startswith(sentence)
    assert error.count("\n") == 1


def test_without_the_sources_it_says_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    module = sys.modules["fastgan.cli.bench"]  # the package's attribute of that name is the command
    monkeypatch.setattr(module, "__file__", str(tmp_path / "fastgan" / "cli" / "bench.py"))
    with pytest.raises(SettingsError, match="clone the repository"):
        module._benchmarks(toy=False)


def _measured(monkeypatch: pytest.MonkeyPatch, out: Path, fused) -> tuple[int, str]:
    (case,) = (c for c in cases([OPS[0]], toy=True) if c.problem.key and c.pass_ == "forward")
    monkeypatch.setattr(bench, "suite", lambda toy: [replace(case, op=replace(case.op, fused=fused))])
    console = Console(width=200, record=True, file=(out.parent / "screen").open("w"))
    code = bench.run(bench.Selection(), out, toy=True, chip="H200", console=console)
    return code, console.export_text()


def test_a_wrong_kernel_is_reported_and_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    code, screen = _measured(monkeypatch, tmp_path / "out", lambda x, bias: reference.bias_act(x, 0 * bias))
    assert code == 1
    assert "wrong, not timed: fused in bias_act/toy_4/float32/contiguous/forward: error " in screen
    assert "fused" not in {row["provider"] for row in results.read(tmp_path / "out" / "results.csv")}
    assert "wrong, not timed: fused" in (tmp_path / "out" / "report.html").read_text()


def test_what_was_measured_before_an_interruption_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    measured = []

    def once(*args, **kwargs):
        if measured:
            raise KeyboardInterrupt
        measured.append(args)
        return real(*args, **kwargs)

    real = bench.measure_any
    monkeypatch.setattr(bench, "measure_any", once)
    two = [c for c in suite(toy=True) if c.subject["op"] == "bias_act"][:2]
    monkeypatch.setattr(bench, "suite", lambda toy: two)
    with pytest.raises(KeyboardInterrupt):
        bench.run(bench.Selection(), tmp_path / "out", toy=True, chip="H200", console=Console(file=sys.stderr))
    assert {row["pass"] for row in results.read(tmp_path / "out" / "results.csv")} == {two[0].pass_}
    assert (tmp_path / "out" / "report.html").exists()


def test_a_selection_takes_what_is_asked_for_and_the_limits():
    listed = suite()

    def subjects(**asked: object) -> list[tuple[object, ...]]:
        chosen = bench.Selection(**asked).of(listed)
        assert [c.key for c in chosen[:8]] == [c.key for c in listed if c.subject["op"] == "limit"][:8]
        return [
            tuple(c.subject[n] for n in ("op", "problem", "dtype", "layout", "pass"))
            for c in chosen
            if c.subject["op"] != "limit"
        ]

    quick = subjects()
    assert {s[0] for s in quick} == {str(c.subject["op"]) for c in listed} - {"limit"}
    assert {s[2:4] for s in quick} == {("float32", "contiguous"), ("bfloat16", "contiguous")}
    assert len(subjects(full=True)) == sum(c.subject["op"] != "limit" for c in listed)
    assert subjects(
        op=["adain"], problem=["stylegan_g_8"], dtype=["float16"], layout=["channels_last"], pass_=["forward"]
    ) == [("adain", "stylegan_g_8", "float16", "channels_last", "forward")]
