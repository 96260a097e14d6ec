"""``fastgan train``."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from typer.core import TyperCommand

from fastgan.console import show_log
from fastgan.extras import import_function
from fastgan.training.config import (
    SettingsError,
    TrainingConfig,
    describe_settings,
    load_preset,
    load_settings,
    parse_assignment,
    preset_names,
)

DEFAULT_PRESET = "dcgan"
_BUNDLED = ("digits", "photos", "gaussians")
_SOURCES = "'digits', 'photos' or 'gaussians' (bundled), a folder of images, a zip, an IDX file, .npy or .npz"
_THE_RUN = "The run"

# The headings of the settings, each at its first one in TrainingConfig.
_HEADINGS = {
    "data": "Data",
    "model": "Model",
    "loss": "Loss and regularization",
    "steps": "Optimization",
    "engine": "Speed",
    "log_every": "Logging and checkpoints",
}


class TrainCommand(TyperCommand):
    """The command, whose help ends with the settings."""

    def format_help(self, *args: Any) -> None:
        super().format_help(*args)
        console = Console()
        console.print(f" Settings for --set and --config, with their values in the preset {DEFAULT_PRESET}:\n")
        tables: dict[str, Table] = {}
        for row in describe_settings(TrainingConfig.from_mapping(load_preset(DEFAULT_PRESET))):
            if row[0] in _HEADINGS:
                tables[_HEADINGS[row[0]]] = table = Table.grid(padding=(0, 2))
                table.add_column(style="bold cyan", overflow="fold")
                table.add_column(style="yellow", overflow="fold", max_width=16)
                table.add_column(overflow="fold")
            table.add_row(*map(escape, row))
        for heading, table in tables.items():
            console.print(Panel(table, title=heading, title_align="left", border_style="dim"))


def _setting(metavar: str, help: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel="Settings")


def train(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help=f"Settings to start from: {', '.join(preset_names())}.")
    ] = DEFAULT_PRESET,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Folder of the run; runs/PRESET by default.", rich_help_panel=_THE_RUN),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume a run from its latest checkpoint.", rich_help_panel=_THE_RUN),
    ] = None,
    config: Annotated[Path | None, _setting("FILE", "A TOML file of settings.")] = None,
    set_: Annotated[list[str] | None, _setting("KEY=VALUE", "Any setting; may be repeated.", "--set")] = None,
    model: Annotated[
        str | None,
        _setting(
            "MODULE:FUNCTION",
            "Networks of your own: a function that returns generator and discriminator; it is called with those of "
            "resolution, num_channels, latent_dim and num_classes that are among its parameters.",
        ),
    ] = None,
    data: Annotated[str | None, _setting("D", f"{_SOURCES}.")] = None,
    steps: Annotated[str | None, _setting("N", "Total number of steps.")] = None,
    seed: Annotated[str | None, _setting("S", "Seed of all random numbers.")] = None,
    batch: Annotated[str | None, _setting("N|auto", "Images in a batch; auto for as many as the GPU holds.")] = None,
    checkpoint_every: Annotated[str | None, _setting("N", "Steps between checkpoints.")] = None,
    device: Annotated[str | None, _setting("D", "auto, cpu, cuda or cuda:INDEX.")] = None,
) -> int:
    """Train a GAN; without arguments, on the bundled handwritten digits.

    Settings come from the preset; --config overrides it, --set overrides both, and the other options override all.
    """
    if data is not None and os.path.exists(data):
        data = os.path.abspath(data)  # A folder has priority over bundled data of the same name, such as photos.
    # Parsed like --set, so that a wrong value has the same error.
    named = {"data": data, "steps": steps, "seed": seed, "checkpoint_every": checkpoint_every, "device": device}
    if batch != "auto":
        named["batch_size"] = batch
    given = dict(parse_assignment(f"{name}={value}") for name, value in named.items() if value is not None)
    if resume is not None:
        refused = [f"--{name.replace('_', '-')}" for name in given if name not in ("steps", "batch_size")]
        others = {"--batch": batch, "--out": out, "--config": config, "--set": set_}
        refused += [name for name, value in others.items() if value]
        refused += [f"the preset {preset!r}"] if preset != DEFAULT_PRESET else []
        if refused:
            raise SettingsError(
                f"--resume uses the settings of the run; {refused[0]} cannot be combined with it, only --steps can"
            )
    else:
        settings: dict[str, Any] = load_preset(preset)
        if config is not None:
            settings |= load_settings(config)
        settings |= dict(parse_assignment(assignment) for assignment in set_ or [])
        if model is not None:
            given["model"] = model
        chosen = TrainingConfig.from_mapping(settings | given)
    # Before torch is imported, which takes seconds. Of torchrun's processes only the first reports, and needs the run.
    first = os.environ.get("RANK", "0") == "0"
    if resume is not None and first and not resume.exists():
        raise SettingsError(f"run {str(resume)!r} does not exist; expected the folder of a run")
    if resume is None and chosen.data not in _BUNDLED and not os.path.exists(chosen.data):
        raise SettingsError(f"there is no file or folder {chosen.data!r}; expected {_SOURCES}")

    from fastgan.training.run import resume_run, start_run

    console = Console(soft_wrap=True, quiet=not first)
    show_log(console)
    build = None if model is None else import_function("model", model)
    if resume is not None:
        received = resume_run(resume, steps=given.get("steps"), build=build, console=console)
    else:
        out = out or Path("runs") / (preset if model is None else model.partition(":")[2])
        received = start_run(chosen, out, build=build, largest_batch=batch == "auto", console=console)
    return 0 if received is None else 128 + received
