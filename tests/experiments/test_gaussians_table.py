import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from experiments import gaussians, gaussians_report
from experiments.gaussians import Result, all_cells, read_points, read_result, table_cell, train_all, train_cell
from fastgan import losses, regularizers
from fastgan.metrics.modes import ModeCoverage
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.loop import NonFiniteError

ALL_NEAR = Result(ModeCoverage((1200,) * 8, 10_000), 20.0)
SEVEN_NEAR = Result(ModeCoverage((0, *(1400,) * 7), 10_000), 30.0)
FAR = Result(ModeCoverage((999,) * 8, 10_000), 30.0)
FAILED = Result(None, 7.0)


@pytest.fixture
def small(monkeypatch):
    """Presets of two steps of small networks, and few samples."""
    tiny = {"steps": 2, "base_channels": 8, "batch_size": 4}
    monkeypatch.setattr(gaussians, "load_preset", lambda name: load_preset(name) | tiny)
    monkeypatch.setattr(gaussians, "NUM_SAMPLES", 50)


def test_the_table_has_every_loss_and_every_regularizer_once():
    # 'logistic' is another name of 'non-saturating'.
    assert sorted([*gaussians.LOSSES, "logistic"]) == sorted(losses.LOSSES)
    assert sorted(gaussians.REGULARIZERS) == sorted([*regularizers.REGULARIZERS, "spectral norm"])
    cells = all_cells()
    assert len({cell.name for cell in cells}) == len(cells) == 7 * 7 + 3 * 2 + 3
    for cell in cells:
        TrainingConfig.from_mapping(load_preset(cell.preset) | cell.changes)


def test_cells_differ_in_nothing_but_loss_regularizer_and_seed():
    for cell in all_cells():
        assert set(cell.changes) <= {"loss", "regularizer", "regularizer_weight", "spectral_norm", "seed"}


def test_a_cell_is_a_run_with_its_samples_and_result(tmp_path, small):
    cell = table_cell("hinge", "spectral norm", seed=1)
    result = train_cell(tmp_path, cell)
    config = (tmp_path / cell.name / "config.toml").read_text()
    assert all(line in config for line in ('loss = "hinge"\n', "spectral_norm = true\n", "seed = 1\n", "steps = 2\n"))
    assert read_points(tmp_path, cell).shape == (50, 2)
    assert result.coverage.num_samples == 50
    assert result.seconds > 0
    assert read_result(tmp_path, cell) == result


def test_a_cell_that_is_trained_again_is_the_same(tmp_path, small):
    cell = table_cell("wasserstein", "wgan-gp")
    assert train_cell(tmp_path / "a", cell).coverage == train_cell(tmp_path / "b", cell).coverage
    assert np.array_equal(read_points(tmp_path / "a", cell), read_points(tmp_path / "b", cell))


def test_a_run_that_leaves_the_finite_numbers_is_a_result_too(tmp_path, small, monkeypatch):
    def diverge(config, run, console):
        raise NonFiniteError("a loss stopped being a finite number")

    monkeypatch.setattr(gaussians, "start_run", diverge)
    cell = table_cell("minimax", "none")
    result = train_cell(tmp_path, cell)
    assert str(result) == "not finite"
    assert read_result(tmp_path, cell) == result
    assert read_points(tmp_path, cell).shape == (0, 2)


def test_cells_with_a_result_are_kept_and_half_a_cell_is_trained_anew(tmp_path, small, monkeypatch):
    cells = [table_cell("hinge", "none"), table_cell("hinge", "r1")]
    monkeypatch.setattr(gaussians, "all_cells", lambda: cells)
    train_cell(tmp_path, cells[0])
    config = tmp_path / cells[0].name / "config.toml"
    config.unlink()
    (tmp_path / cells[1].name / "checkpoints" / "1").mkdir(parents=True)
    trained = []
    monkeypatch.setattr(gaussians, "ProcessPoolExecutor", FakePool)
    monkeypatch.setattr(gaussians, "as_completed", list)
    monkeypatch.setattr(gaussians, "train_cell", lambda out, cell: trained.append(cell) or train_cell(out, cell))
    console = Console(file=io.StringIO(), width=200)
    train_all(tmp_path, processes=2, console=console)
    assert trained == cells[1:]
    assert "1 cells are done, 1 to train" in console.file.getvalue()
    assert not config.exists()
    assert read_result(tmp_path, cells[1]) is not None


class FakePool:
    """Runs in this process what it is given."""

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def submit(self, function, *args):
        return Done(function(*args))


class Done:
    def __init__(self, value):
        self.value = value

    def result(self):
        return self.value


@pytest.mark.parametrize(
    ("result", "good", "text"),
    [
        (ALL_NEAR, True, "**8 of 8, 96.0%**"),
        (SEVEN_NEAR, False, "7 of 8, 98.0%"),
        (FAR, False, "8 of 8, 79.9%"),
        (FAILED, False, "not finite"),
    ],
)
def test_what_meets_the_bar_is_bold_and_what_fails_is_said(result, good, text):
    assert gaussians_report.meets_bar(result) is good
    results = {cell.name: ALL_NEAR for cell in all_cells()} | {table_cell("minimax", "none").name: result}
    page = gaussians_report.page(results)
    assert f"\n| minimax | {text} | **8 of 8, 96.0%** |" in page


def test_the_page_tells_settings_seeds_and_times_of_the_runs():
    results = {cell.name: ALL_NEAR for cell in all_cells()}
    results[table_cell("wasserstein", "wgan-gp", 2).name] = SEVEN_NEAR
    page = gaussians_report.page(results)
    assert "| WGAN-GP | wasserstein | wgan-gp | **8 of 8, 96.0%** | **8 of 8, 96.0%** | 7 of 8, 98.0% | 30 |" in page
    assert "One thread for each of 58 runs, 20 to 30 seconds of processor time,\n20 minutes in all" in page
    assert f"\nsteps={load_preset('gaussians')['steps']}\n" in page


def test_page_and_picture_are_drawn_from_the_cells(tmp_path, small, monkeypatch):
    for module in (gaussians, gaussians_report):
        monkeypatch.setattr(module, "LOSSES", ("minimax", "hinge"))
        monkeypatch.setattr(module, "REGULARIZERS", {name: gaussians.REGULARIZERS[name] for name in ("none", "r1")})
        monkeypatch.setattr(module, "METHODS", {"R1": ("hinge", "r1")})
    for cell in all_cells():
        train_cell(tmp_path / "runs", cell)
    for docs in (tmp_path / "a", tmp_path / "b"):
        docs.mkdir()
        gaussians_report.draw(tmp_path / "runs", docs)
    found = [read_result(tmp_path / "runs", table_cell("hinge", name)) for name in ("none", "r1")]
    assert f"| hinge | {found[0]} | {found[1]} |" in (tmp_path / "a" / "gaussians.md").read_text()
    with Image.open(tmp_path / "a" / "gaussians.png") as picture:
        assert picture.size == (340, 354)
    assert (tmp_path / "a" / "gaussians.png").read_bytes() == (tmp_path / "b" / "gaussians.png").read_bytes()
