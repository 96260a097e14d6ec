"""Trains the preset ``photos``, as ``fastgan train photos`` does, and draws a grid of its images."""

from pathlib import Path

import torch
from rich.console import Console

from fastgan.sampling import generate, image_grid, save_png
from fastgan.training.checkpoint import latest_checkpoint, load_trained_generator
from fastgan.training.config import TrainingConfig, load_preset
from fastgan.training.run import start_run


def draw(out: Path, docs: Path) -> None:
    """Trains if there is no run yet; writes the grid."""
    if latest_checkpoint(out) is None:
        start_run(TrainingConfig.from_mapping(load_preset("photos")), out, console=Console(soft_wrap=True))
    generator, _ = load_trained_generator(out, torch.device("cpu"))
    save_png(image_grid(generate(generator, 64, seed=0)), docs / "photos.png")
