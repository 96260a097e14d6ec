"""Makes the page of `fastgan evaluate`: its scores of damaged real digits, and of three runs."""

import contextlib
import io
import shutil
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import avg_pool2d

from docs.make.page import inject, table
from fastgan.data import load_dataset, normalize
from fastgan.metrics.collapse import Collapse, detect_collapse
from fastgan.metrics.collapse_picture import collapse_picture
from fastgan.metrics.features import FeatureNetwork, load_features
from fastgan.metrics.measure import measure, real_batches
from fastgan.metrics.scores import SCALES, score, score_values
from fastgan.sampling import image_grid, save_png
from fastgan.training.checkpoint import latest_checkpoint
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.run import start_run

# A short, poor run; a longer one; one of another model.
RUNS = (("vanilla", 300), ("vanilla", 3000), ("dcgan", 400))
_LEFT_OUT = {1: "0", 3: "0 to 2", 5: "0 to 4", 8: "0 to 7"}


def draw(out: Path, docs: Path) -> None:
    """Trains the runs that do not exist yet, in about seven minutes on one core; writes pictures and tables."""
    runs = [out / f"{preset}-{steps}" for preset, steps in RUNS]
    for run, (preset, steps) in zip(runs, RUNS, strict=True):
        if latest_checkpoint(run) is None:
            config = TrainingConfig.from_mapping(load_preset(preset) | {"steps": steps})
            start_run(config, run, console=Console(soft_wrap=True))
    digits = load_dataset("digits", resolution=32)
    network = load_features("digits", torch.device("cpu"))
    ones_and_sevens = digits.images[(digits.labels == 1) | (digits.labels == 7)]
    collapse = _detect(network, digits.images, ones_and_sevens)
    grids = [image_grid(normalize(images[:64])) for images in (digits.images, ones_and_sevens)]
    save_png(collapse_picture(*grids, collapse.shown), docs / "evaluation-ones-and-sevens.png")
    report = (out / "report").resolve()
    compared = _evaluate(runs, report)
    shutil.copyfile(report / "1-collapse.png", docs / "evaluation-run.png")
    answers = "\n".join(f"- by {answer.way}: {answer.verdict}; {answer.evidence}" for answer in collapse.answers)
    damages = damage_table(network, digits.images, digits.labels)
    inject(docs / "evaluation.md", {"damages": damages, "answers": answers, "runs": compared})


def _detect(network: FeatureNetwork, real: Tensor, generated: Tensor) -> Collapse:
    features = [measure(real_batches(images), network)[0] for images in (real, generated)]
    return detect_collapse(*features, network.shares(*features), seed=0)


def damage_table(network: FeatureNetwork, images: Tensor, labels: Tensor) -> str:
    """The scores of damaged images against the images themselves."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=random)
    rows = {"nothing": images}
    rows |= {f"noise of {a} of 255": (images + a * noise).clamp(0, 255).to(torch.uint8) for a in (20, 40, 80, 160)}
    blurred = {k: avg_pool2d(images.float(), k, 1, k // 2).round() for k in (3, 5, 7, 9)}
    rows |= {f"blur over {k}x{k}": blur.to(torch.uint8) for k, blur in blurred.items()}
    rows |= {f"without {what}": images[labels >= first] for first, what in _LEFT_OUT.items()}
    real = network(images)
    names = [name for name in SCALES if name != "f1"]
    lines = []
    for name, damaged in rows.items():
        values = score_values(real, network(damaged))
        lines.append([name, *(f"{values[score]:.3g}" for score in names)])
    order = torch.randperm(len(images), generator=random)
    found = score(*(network(images[half]) for half in (order[::2], order[1::2])), seed=0)
    lines.append(["two halves", *(f"{found[name].value:.3g}" for name in names)])
    return table(["damage", *(SCALES[name].label for name in names)], lines)


def _evaluate(runs: list[Path], report: Path) -> str:
    """The command that compares the runs, and its output."""
    from fastgan.cli import main

    printed = io.StringIO()
    names = [run.name for run in runs]
    with contextlib.chdir(runs[0].parent), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(["evaluate", *names, "--device", "cpu", "--out", str(report)])
    lines = printed.getvalue().partition("Comparison")[2].strip().splitlines()
    return "\n".join(["```", f"$ fastgan evaluate {' '.join(names)}", *(line.rstrip() for line in lines), "```"])
