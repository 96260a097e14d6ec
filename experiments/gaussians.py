"""Every loss by every regularizer on eight Gaussians, and the runs that are judged with three seeds each.

A cell is a run of the preset ``gaussians`` with a few settings changed, trained as ``fastgan train`` trains it, in a
folder of its own. Its result lies beside the run and is kept, so that a table that was cut off goes on.
"""

import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from fastgan.data.gaussians import to_points
from fastgan.laboratory.remedies import BENCHES
from fastgan.metrics.modes import ModeCoverage, mode_coverage
from fastgan.sampling import generate
from fastgan.training.checkpoints import load_averaged_generator
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.loop import NonFiniteError, start_run

LOSSES = (
    "minimax",
    "non-saturating",
    "wasserstein",
    "hinge",
    "least-squares",
    "relativistic-pairing",
    "relativistic-average",
)

_BENCH = BENCHES["gaussians"]
_PENALTY, _GAMMA = {"regularizer_weight": _BENCH.penalty_weight}, {"regularizer_weight": _BENCH.r1_gamma}

# Settings by regularizer.
REGULARIZERS: dict[str, dict[str, Any]] = {
    "none": {"regularizer": "none"},
    "wgan-gp": {"regularizer": "wgan-gp", **_PENALTY},
    "wgan-gp-one-sided": {"regularizer": "wgan-gp-one-sided", **_PENALTY},
    "r1": {"regularizer": "r1", **_GAMMA},
    "r2": {"regularizer": "r2", **_GAMMA},
    "dragan": {"regularizer": "dragan", **_PENALTY},
    "spectral norm": {"regularizer": "none", "spectral_norm": True},
}

# The loss and the regularizer of each method that has to capture all modes, and how often; then the one that must not.
METHODS = {
    "WGAN-GP": ("wasserstein", "wgan-gp"),
    "spectral norm": ("hinge", "spectral norm"),
    "R1": ("non-saturating", "r1"),
}
SEEDS = (0, 1, 2)
COLLAPSE = "gaussians-collapse"

NUM_SAMPLES = 10_000
_RESULT, _POINTS = "result.json", "points.npy"


@dataclass(frozen=True)
class Cell:
    """A run: a preset, what is changed in it, and the name of its folder."""

    name: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """What came out of a cell.

    Attributes:
        coverage: of 10,000 samples; None where the run left the finite numbers.
        seconds: of processor time, on one thread, for training, reports and checkpoints.
    """

    coverage: ModeCoverage | None
    seconds: float

    def __str__(self) -> str:
        if self.coverage is None:
            return "not finite"
        return f"{self.coverage.captured} of 8, {self.coverage.high_quality:.1%}"


def table_cell(loss: str, regularizer: str, seed: int = 0) -> Cell:
    """The cell of a loss and a regularizer in the table."""
    name = f"{loss}--{regularizer.replace(' ', '-')}--{seed}"
    return Cell(name, "gaussians", {"loss": loss, **REGULARIZERS[regularizer], "seed": seed})


def collapse_cell(seed: int) -> Cell:
    """A run of the preset that collapses."""
    return Cell(f"collapse--{seed}", COLLAPSE, {"seed": seed})


def all_cells() -> list[Cell]:
    """What is judged comes first: it tells soonest whether the settings are right."""
    judged = [table_cell(*method, seed) for method in METHODS.values() for seed in SEEDS]
    cells = [*judged, *map(collapse_cell, SEEDS), *(table_cell(loss, name) for loss in LOSSES for name in REGULARIZERS)]
    return list({cell.name: cell for cell in cells}.values())


def train_all(out: Path, *, processes: int, console: Console) -> None:
    """Trains every cell that has no result yet, a process and a thread each."""
    waiting = [cell for cell in all_cells() if read_result(out, cell) is None]
    console.print(f"{len(all_cells()) - len(waiting)} cells are done, {len(waiting)} to train, into {out}")
    # Fresh processes: a fork of one in which torch has started its threads may hang.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = {pool.submit(train_cell, out, cell): cell for cell in waiting}
        for future in as_completed(futures):
            result = future.result()
            console.print(f"{futures[future].name}: {result}, {result.seconds:.0f} s", highlight=False)


def train_cell(out: Path, cell: Cell) -> Result:
    """Trains a cell from the start, draws 10,000 samples of its averaged generator and judges them."""
    run = out / cell.name
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    config = TrainingConfig.from_mapping(load_preset(cell.preset) | cell.changes | {"device": "cpu"})
    began = time.process_time()
    try:
        with (run / "log.txt").open("w") as log:
            start_run(config, run, console=Console(file=log, soft_wrap=True))
        seconds = time.process_time() - began
        generator, _ = load_averaged_generator(run, torch.device("cpu"))
        # Of a seed of its own, so that no latent was seen in training.
        points = to_points(generate(generator, NUM_SAMPLES, seed=1000 + config.seed))
        result = Result(mode_coverage(points), seconds)
    except NonFiniteError:
        points = torch.zeros(0, 2)
        result = Result(None, time.process_time() - began)
    np.save(run / _POINTS, points.numpy())
    # Last: a cell with a result is whole.
    (run / _RESULT).write_text(json.dumps(asdict(result)) + "\n")
    return result


def read_result(out: Path, cell: Cell) -> Result | None:
    """The result of a cell, or None before it is trained."""
    path = out / cell.name / _RESULT
    if not path.exists():
        return None
    values = json.loads(path.read_text())
    coverage = values["coverage"]
    return Result(
        None if coverage is None else ModeCoverage(tuple(coverage["counts"]), coverage["num_samples"]),
        values["seconds"],
    )


def read_points(out: Path, cell: Cell) -> np.ndarray:
    """The samples of a trained cell, float32 [10000, 2]; [0, 2] where the run failed."""
    return np.load(out / cell.name / _POINTS)
