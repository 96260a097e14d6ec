"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from fastgan.training.config import SettingsError


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
    typer.Argument(metavar="RUN", callback=with_generator, help="Folder of 'fastgan train' or 'fastgan export'."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", help="Function that builds the networks of a run of --model; its module is imported."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, metavar="S", help="The same seed gives the same images.")]
Class = Annotated[
    int | None,
    typer.Option("--class", metavar="K", help="The class, in a conditional run; its classes in turn by default."),
]
Truncation = Annotated[
    float,
    typer.Option(
        min=0, max=1, metavar="PSI", help="Truncation psi, only for stylegan: 0 for the average image, 1 for none."
    ),
]
Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:INDEX.")]
Rows = Annotated[int, typer.Option("--count", min=1, metavar="N", help="Number of rows, one for each latent.")]
Frames = Annotated[
    int | None, typer.Option(min=2, metavar="N", help="Images in a row; 9 by default, in an animation 48 frames.")
]
PictureOut = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A grid (.png, .jpg), arrays (.npz) or a folder (no ending); in RUN by default."),
]
SequenceOut = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A grid (.png, .jpg), animation (.gif, .mp4), arrays (.npz), or a folder (no ending); by default in RUN.",
    ),
]
