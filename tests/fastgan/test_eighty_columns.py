"""On 80 columns nothing that a command prints is cut, and no table or panel is wider."""

import pytest

from fastgan.cli import app
from fastgan.collapse import trials

COMMANDS = [command.callback.__name__ for command in app.registered_commands]
# A word that does not fit ends in an ellipsis, unless its column folds.
CUT = "…"


def on_80_columns(fastgan, monkeypatch, *args):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = fastgan(*args)
    assert (code, err) == (0, "")
    assert CUT not in out
    assert all(len(line) <= 80 for line in out.splitlines() if line.startswith(tuple("┃│╭╰┏└")))
    return out


@pytest.mark.parametrize("args", [["--help"], ["doctor"], *([command, "--help"] for command in COMMANDS)])
def test_help_and_doctor(fastgan, monkeypatch, args):
    out = on_80_columns(fastgan, monkeypatch, *args)
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_run_and_its_evaluation(fastgan, monkeypatch, tmp_path):
    tiny = ["--set", "resolution=16", "--set", "base_channels=4", "--set", "batch_size=4", "--device", "cpu"]
    out = on_80_columns(fastgan, monkeypatch, "train", "--out", tmp_path / "run", "--steps", 2, *tiny)
    assert "step 2/2 " in out
    on_80_columns(fastgan, monkeypatch, "generate", tmp_path / "run", "--count", 2)
    table = on_80_columns(fastgan, monkeypatch, "evaluate", tmp_path / "run", "--count", 20)
    assert "kernel distance" in table


def test_mode_collapse(fastgan, monkeypatch, tmp_path):
    monkeypatch.setattr(trials, "NUM_SAMPLES", 60)
    remedy = "minibatch-discrimination"
    args = ["collapse", "--steps", 1, "--remedy", remedy, "--out", tmp_path]
    assert remedy in on_80_columns(fastgan, monkeypatch, *args)
