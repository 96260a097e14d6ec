"""Options that several commands share, and the trained generator that they name."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fastgan.console import say, show_log, warner
from fastgan.training.config import SettingsError

if TYPE_CHECKING:
    from torch import nn


def with_generator(run: Path) -> Path:
    """Refuses a folder that is neither a run nor an export, before torch is imported, which takes seconds."""
    if not any((run / name).exists() for name in ("checkpoints", "config.json", "model.safetensors")):
        what = "is neither a run with a checkpoint nor an export" if run.exists() else "does not exist"
        raise SettingsError(
            f"{str(run)!r} {what}; expected a folder that 'fastgan train' or 'fastgan export' has written"
        )
    return run


Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", callback=with_generator, help="Folder written by 'fastgan train' or 'fastgan export'."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="MODULE:FUNCTION", help="The function given as --model in training; its module is imported."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="S", help="Seed of the latents.")]
Class = Annotated[
    int | None,
    typer.Option(
        "--class", metavar="K", help="Class of the images of a conditional run; by default all classes in turn."
    ),
]
Truncation = Annotated[
    float,
    typer.Option(
        min=0, max=1, metavar="PSI", help="Truncation psi, only for stylegan: 0 for the average image, 1 for none."
    ),
]
Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:INDEX.")]
Rows = Annotated[int, typer.Option("--count", min=1, metavar="N", help="Number of rows, one per latent.")]
Frames = Annotated[
    int | None, typer.Option(min=2, metavar="N", help="Images per row; by default 9, or 48 for an animation.")
]
PictureOut = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A grid (.png, .jpg), arrays (.npz) or a folder (no suffix); by default in RUN."),
]
SequenceOut = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A grid (.png, .jpg), animation (.gif, .mp4), arrays (.npz) or a folder (no suffix); by default in RUN.",
    ),
]


@dataclass(frozen=True)
class Trained:
    """A generator in evaluation mode, the folder it was loaded from, and its number of steps, if known."""

    source: Path
    generator: "nn.Module"
    step: int | None
    console: Console

    def say(self, text: str) -> None:
        say(self.console, text)


def load_trained(source: Path, device: str, model: str | None) -> Trained:
    """Loads the EMA generator of a run's latest checkpoint, or the generator of a model folder."""
    from fastgan.training.checkpoint import load_trained_generator
    from fastgan.training.device import resolve_device

    console = Console()
    show_log(console)
    where = resolve_device(device)
    return Trained(source, *load_trained_generator(source, where, model=model, warn=warner(console)), console)
