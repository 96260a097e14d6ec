"""The picture and the page of the eight Gaussians, drawn from the results of the cells alone."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from experiments.gaussians import (
    COLLAPSE,
    LOSSES,
    METHODS,
    NUM_SAMPLES,
    REGULARIZERS,
    SEEDS,
    Cell,
    Result,
    all_cells,
    collapse_cell,
    read_points,
    read_result,
    table_cell,
)
from experiments.markdown import table
from fastgan.data.gaussians import CENTRES, EXTENT, STANDARD_DEVIATION
from fastgan.metrics.modes import MAX_DEVIATIONS, MIN_SHARE
from fastgan.training.config import TrainingConfig, load_preset

PICTURE, PAGE = "gaussians.png", "gaussians.md"
_DRAWN = 1000
# A cell that meets the bar, one that misses it, and one that left the finite numbers.
_GOOD, _POOR, _FAILED = "#1a7f37", "#b35900", "#b00020"


def draw(out: Path, docs: Path) -> None:
    """Writes the picture and the page into the folder ``docs``; every cell must have its result."""
    results = {cell.name: result for cell in all_cells() if (result := read_result(out, cell)) is not None}
    _draw_picture(out, results, docs / PICTURE)
    (docs / PAGE).write_text(page(results), encoding="utf-8")


def meets_bar(result: Result) -> bool:
    """All eight modes, and at least 80% of the samples near one."""
    coverage = result.coverage
    return coverage is not None and coverage.captured == len(CENTRES) and coverage.high_quality >= 0.8


def _draw_picture(out: Path, results: Mapping[str, Result], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(1.5 * len(REGULARIZERS) + 0.4, 1.62 * len(LOSSES) + 0.3), dpi=100, layout="constrained")
    all_axes = figure.subplots(len(LOSSES), len(REGULARIZERS), squeeze=False)
    for row, loss in enumerate(LOSSES):
        for column, regularizer in enumerate(REGULARIZERS):
            cell, axes = table_cell(loss, regularizer), all_axes[row][column]
            result = results[cell.name]
            points = read_points(out, cell)[:_DRAWN]
            for centre in CENTRES:
                axes.add_patch(Circle(centre, MAX_DEVIATIONS * STANDARD_DEVIATION, fill=False, ec="#d63024", lw=0.6))
            axes.scatter(points[:, 0], points[:, 1], s=0.5, color="#1f5ab4", linewidths=0)
            axes.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", xticks=(), yticks=())
            colour = _FAILED if result.coverage is None else _GOOD if meets_bar(result) else _POOR
            axes.set_xlabel(str(result), fontsize=8, color=colour, labelpad=2)
            if row == 0:
                axes.set_title(regularizer, fontsize=9)
            if column == 0:
                axes.set_ylabel(loss, fontsize=9)
    # No date or version inside, so that equal results are equal bytes.
    figure.savefig(path, metadata={"Software": None})


def page(results: Mapping[str, Result]) -> str:
    """The page in Markdown."""
    cells = table(
        ["loss", *REGULARIZERS],
        ([loss, *(_marked(results[table_cell(loss, name).name]) for name in REGULARIZERS)] for loss in LOSSES),
    )
    judged = table(
        ["method", "loss", "regularizer", *(f"seed {seed}" for seed in SEEDS), "longest, processor seconds"],
        (_judged_row(results, *row) for row in _judged_cells()),
    )
    seconds = [result.seconds for result in results.values()]
    radius = MAX_DEVIATIONS * STANDARD_DEVIATION
    return f"""# Eight Gaussians: every loss by every regularizer

Drawn by `python -m experiments gaussians`, in the root of the repository; figures and pictures come from its runs.
The modes captured, of eight, and the share of samples near any of them: of {NUM_SAMPLES:,} samples of the averaged
generator, near meaning within {MAX_DEVIATIONS:g} standard deviations ({radius:g}) of a centre. A mode counts
from {MIN_SHARE:.0%} of all samples. Of the data themselves 98.9% are near. Bold: 8 of 8 and at least 80%.

{cells}

![Samples of every cell]({PICTURE})

{_DRAWN:,} samples of each, of seed 0; the red circles hold what is near a mode.

## Three seeds each

{judged}

## Settings

The same networks, optimizers, batches and number of steps in every cell, chosen on seed 0 of the three methods above.
Those of the preset `gaussians`:

```
{_assignments(load_preset("gaussians"))}
```

{table(["regularizer", "settings"], ([name, f"`{_assignments(s, ' ')}`"] for name, s in REGULARIZERS.items()))}

A cell is one command:

```
fastgan train gaussians --set loss=LOSS --set KEY=VALUE ...
```

One thread for each of {len(seconds)} runs, {min(seconds):.0f} to {max(seconds):.0f} seconds of processor time,
{sum(seconds) / 60:.0f} minutes in all; torch {torch.__version__.partition("+")[0]} on the CPU ({platform.machine()}).
"""


def _judged_cells() -> list[tuple[str, str, str, list[Cell]]]:
    rows = [(name, *method, [table_cell(*method, seed) for seed in SEEDS]) for name, method in METHODS.items()]
    config = TrainingConfig.from_mapping(load_preset(COLLAPSE))
    return [*rows, (f"`{COLLAPSE}`", config.loss, config.regularizer, [collapse_cell(seed) for seed in SEEDS])]


def _judged_row(results: Mapping[str, Result], name: str, loss: str, regularizer: str, cells: list[Cell]) -> list[str]:
    found = [results[cell.name] for cell in cells]
    longest = max(result.seconds for result in found)
    return [name, loss, regularizer, *map(_marked, found), f"{longest:.0f}"]


def _marked(result: Result) -> str:
    return f"**{result}**" if meets_bar(result) else str(result)


def _assignments(settings: Mapping[str, Any], separator: str = "\n") -> str:
    return separator.join(f"{name}={str(value).lower()}" for name, value in settings.items())
