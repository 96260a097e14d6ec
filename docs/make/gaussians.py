"""Trains every loss with every regularizer on eight Gaussians, and a few methods with three seeds each.

Each cell is a run of the preset ``gaussians`` with a few changed settings, trained as ``fastgan train`` trains it.
"""

import platform
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from docs.make.page import inject, kept, table
from fastgan.collapse.remedies import BENCHES
from fastgan.data.gaussians import CENTERS, EXTENT, STANDARD_DEVIATION, to_points
from fastgan.metrics.modes import MAX_DEVIATIONS, ModeCoverage, mode_coverage
from fastgan.sampling import generate
from fastgan.training.checkpoint import load_trained_generator
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.fit import NonFiniteError
from fastgan.training.run import start_run

LOSSES = (
    "minimax",
    "non-saturating",
    "wasserstein",
    "hinge",
    "least-squares",
    "relativistic-pairing",
    "relativistic-average",
)
_PENALTY = {"regularizer_weight": BENCHES["gaussians"].penalty_weight}
_GAMMA = {"regularizer_weight": BENCHES["gaussians"].r1_gamma}
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
# Loss and regularizer of each method that must capture all modes; and the preset that must not.
METHODS = {
    "WGAN-GP": ("wasserstein", "wgan-gp"),
    "spectral norm": ("hinge", "spectral norm"),
    "R1": ("non-saturating", "r1"),
}
SEEDS = (0, 1, 2)
COLLAPSE = "gaussians-collapse"
NUM_SAMPLES = 10_000
_DRAWN = 1000
# Colors of a cell that meets the bar, misses it, or ended with values that are not finite.
_GOOD, _POOR, _FAILED = "#1a7f37", "#b35900", "#b00020"


@dataclass(frozen=True)
class Cell:
    """A run: a preset, its changed settings, and the name of its folder."""

    name: str
    preset: str
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The result of a cell: the coverage of 10,000 samples, ``None`` if the run ended with values that are not finite;
    some of the samples; and seconds of processor time on one thread."""

    coverage: ModeCoverage | None
    points: list[list[float]]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether all eight modes are captured, and at least 80% of the samples are near one."""
        return self.coverage is not None and self.coverage.captured == 8 and self.coverage.high_quality >= 0.8

    def __str__(self) -> str:
        if self.coverage is None:
            return "not finite"
        return f"{self.coverage.captured} of 8, {self.coverage.high_quality:.1%}"

    @property
    def marked(self) -> str:
        return f"**{self}**" if self.is_good else str(self)


def table_cell(loss: str, regularizer: str, seed: int = 0) -> Cell:
    name = f"{loss}--{regularizer.replace(' ', '-')}--{seed}"
    return Cell(name, "gaussians", {"loss": loss, **REGULARIZERS[regularizer], "seed": seed})


def collapse_cell(seed: int) -> Cell:
    return Cell(f"collapse--{seed}", COLLAPSE, {"seed": seed})


def all_cells() -> list[Cell]:
    """All cells; those with three seeds come first, since they show whether the settings are right."""
    held = [table_cell(*method, seed) for method in METHODS.values() for seed in SEEDS]
    cells = [*held, *map(collapse_cell, SEEDS), *(table_cell(loss, name) for loss in LOSSES for name in REGULARIZERS)]
    return list({cell.name: cell for cell in cells}.values())


def result_of(out: Path, cell: Cell) -> Result:
    """The result of a cell, from 10,000 samples of its generator's EMA; trains the cell if its result is not stored."""
    run = out / cell.name

    def train() -> dict[str, Any]:
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True)
        config = TrainingConfig.from_mapping(load_preset(cell.preset) | cell.changes | {"device": "cpu"})
        began = time.process_time()
        counts, points = None, []
        with suppress(NonFiniteError), (run / "log.txt").open("w") as log:
            start_run(config, run, console=Console(file=log, soft_wrap=True))
            generator, _ = load_trained_generator(run, torch.device("cpu"))
            # With another seed than training, so that the latents are new.
            samples = to_points(generate(generator, NUM_SAMPLES, seed=1000 + config.seed))
            counts, points = mode_coverage(samples).counts, samples[:_DRAWN].tolist()
        return {"counts": counts, "points": points, "seconds": time.process_time() - began}

    result = kept(run / "result.json", train)
    counts = result.pop("counts")
    return Result(None if counts is None else ModeCoverage(tuple(counts), NUM_SAMPLES), **result)


def draw(out: Path, docs: Path) -> None:
    """Trains the cells without a result, in two processes of one thread; writes the picture and the tables."""
    # Spawned, since a fork of a process in which torch has started threads may hang.
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        results = dict(
            zip((cell.name for cell in all_cells()), pool.map(partial(result_of, out), all_cells()), strict=True)
        )
    _picture(results, docs / "gaussians.png")
    inject(docs / "gaussians.md", blocks(results))


def blocks(results: dict[str, Result]) -> dict[str, str]:
    """The blocks of the page, made from the results."""
    cells = ([loss, *(results[table_cell(loss, name).name].marked for name in REGULARIZERS)] for loss in LOSSES)
    config = TrainingConfig.from_mapping(load_preset(COLLAPSE))
    held = [(name, *method, [table_cell(*method, seed) for seed in SEEDS]) for name, method in METHODS.items()]
    held.append((f"`{COLLAPSE}`", config.loss, config.regularizer, [collapse_cell(seed) for seed in SEEDS]))
    seeds = []
    for *words, of_seeds in held:
        found = [results[cell.name] for cell in of_seeds]
        seeds.append([*words, *(result.marked for result in found), f"{max(r.seconds for r in found):.0f}"])
    seconds = [result.seconds for result in results.values()]
    return {
        "cells": table(["loss", *REGULARIZERS], cells),
        "seeds": table(
            ["method", "loss", "regularizer", *(f"seed {s}" for s in SEEDS), "longest, processor seconds"], seeds
        ),
        "preset": f"```\n{_assignments(load_preset('gaussians'), chr(10))}\n```",
        "regularizers": table(
            ["regularizer", "settings"], ([name, f"`{_assignments(of, ' ')}`"] for name, of in REGULARIZERS.items())
        ),
        "cost": f"{len(seconds)} runs on one thread each took {min(seconds):.0f} to {max(seconds):.0f} seconds of "
        f"processor time, {sum(seconds) / 60:.0f} minutes in all;\ntorch {torch.__version__.partition('+')[0]} on the "
        f"CPU ({platform.machine()}).",
    }


def _assignments(settings: dict[str, Any], separator: str) -> str:
    return separator.join(f"{name}={str(value).lower()}" for name, value in settings.items())


def _picture(results: dict[str, Result], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(1.5 * len(REGULARIZERS) + 0.4, 1.62 * len(LOSSES) + 0.3), dpi=100, layout="constrained")
    fields = figure.subplots(len(LOSSES), len(REGULARIZERS), squeeze=False)
    for row, loss in enumerate(LOSSES):
        for column, regularizer in enumerate(REGULARIZERS):
            result, field = results[table_cell(loss, regularizer).name], fields[row][column]
            for center in CENTERS:
                field.add_patch(Circle(center, MAX_DEVIATIONS * STANDARD_DEVIATION, fill=False, ec="#d63024", lw=0.6))
            for x, y in [zip(*result.points, strict=True)] if result.points else []:
                field.scatter(x, y, s=0.5, color="#1f5ab4", linewidths=0)
            field.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=(), yticks=())
            color = _FAILED if result.coverage is None else _GOOD if result.is_good else _POOR
            field.set_xlabel(str(result), fontsize=8, color=color, labelpad=2)
            if row == 0:
                field.set_title(regularizer, fontsize=9)
            if column == 0:
                field.set_ylabel(loss, fontsize=9)
    # Without date and version, so that equal results give equal files.
    figure.savefig(path, metadata={"Software": None})
