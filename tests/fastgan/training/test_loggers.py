"""Weights & Biases, by a module that notes what it is told in place of the real one."""

import json
import sys
import types

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastgan.extras import MissingExtraError
from fastgan.training.config import SettingsError
from fastgan.training.health import Finding
from fastgan.training.logging import Reporter
from fastgan.training.run import resume_run, start_run


class Run:
    def __init__(self, arguments):
        self.arguments = arguments
        self.metrics = []
        self.rows = []
        self.exit_code = None

    def define_metric(self, name, **options):
        self.metrics.append((name, options))

    def log(self, row):
        assert self.exit_code is None
        self.rows.append(row)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def wandb(monkeypatch):
    module = types.ModuleType("wandb")
    module.runs = []
    module.Error = type("Error", (Exception,), {})
    module.Image = lambda pixels: ("image", pixels)

    def init(**arguments):
        module.runs.append(Run(arguments))
        return module.runs[-1]

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_it_gets_the_figures_findings_and_grids_that_tensorboard_gets(tmp_path, tiny, console, wandb):
    figures = {"discriminator_loss": 1.25, "generator_loss": 0.5, "spread": 0.9375}
    findings = [Finding("mode collapse", "two differ by 4.0%", "regularizer [r1]")]
    config = tiny(wandb="tests")
    with Reporter(tmp_path, config, step=0, num_images=0, console=console) as reporter:
        reporter.report(5, figures, findings, num_images=30)
        reporter.samples(8, torch.zeros(4, 1, 16, 16))
    (run,) = wandb.runs
    assert run.arguments["project"] == "tests"
    assert run.arguments["name"] == tmp_path.name
    assert run.arguments["config"]["latent_dim"] == 8
    assert run.metrics == [("step", {}), ("*", {"step_metric": "step"})]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scalars, text, picture = run.rows
    assert scalars.pop("step") == 5
    assert scalars.keys() == set(events.Tags()["scalars"])
    assert {tag: events.Scalars(tag)[0].value for tag in scalars} == pytest.approx(scalars)
    assert text == {"step": 5, "health": "mode collapse: two differ by 4.0%. Try regularizer [r1]."}
    kind, pixels = picture["samples"]
    assert (picture["step"], kind, pixels.shape, str(pixels.dtype)) == (8, "image", (70, 70, 1), "uint8")
    assert run.exit_code == 0


def test_a_resumed_training_continues_its_run_and_a_new_one_begins_another(tmp_path, tiny, console, wandb):
    start_run(tiny(wandb="tests", steps=6), tmp_path, console=console)
    resume_run(tmp_path, steps=12, console=console)
    first, second = (run.arguments for run in wandb.runs)
    assert first["id"] == second["id"] == (tmp_path / "wandb_id").read_text()
    assert first["resume"] == second["resume"] == "allow"
    logged = [row["step"] for row in json.loads(f"[{','.join((tmp_path / 'metrics.jsonl').read_text().splitlines())}]")]
    assert logged == [5, 10, 12]
    assert [row["step"] for run in wandb.runs for row in run.rows if "generator/loss" in row] == [5, 6, 10, 12]
    assert [row["step"] for run in wandb.runs for row in run.rows if "samples" in row] == [6, 8, 12]
    # A start of which no checkpoint is left is another run.
    for folder in (tmp_path / "checkpoints").iterdir():
        folder.rename(tmp_path / folder.name)
    start_run(tiny(wandb="tests", steps=1), tmp_path, console=console)
    assert wandb.runs[2].arguments["id"] not in (None, first["id"])


def test_a_run_that_fails_is_told_as_failed(tmp_path, tiny, console, wandb):
    with (
        pytest.raises(ValueError, match="a fault"),
        Reporter(tmp_path, tiny(wandb="tests"), step=0, num_images=0, console=console),
    ):
        raise ValueError("a fault")
    assert wandb.runs[0].exit_code == 1


def test_without_the_setting_it_is_not_asked(tmp_path, tiny, console, wandb):
    start_run(tiny(steps=1), tmp_path, console=console)
    assert wandb.runs == []
    assert not (tmp_path / "wandb_id").exists()


def test_a_missing_package_is_told_before_anything_is_written(tmp_path, tiny, console, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"setting 'wandb' needs wandb, which is not installed: pip install"):
        start_run(tiny(wandb="tests"), tmp_path / "run", console=console)
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_is_told_in_a_sentence(tmp_path, tiny, console, wandb):
    def refuse(**arguments):
        raise wandb.Error("api_key not configured\nsee also")

    wandb.init = refuse
    with pytest.raises(SettingsError) as caught:
        start_run(tiny(wandb="tests"), tmp_path, console=console)
    assert str(caught.value) == (
        "setting 'wandb' is 'tests' and Weights & Biases does not start: api_key not configured; the environment "
        "variable WANDB_MODE=offline does without its service"
    )
