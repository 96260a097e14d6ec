"""``fastgan train``."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fastgan.console import show_log
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


def settings_epilog() -> str:
    config = TrainingConfig.from_mapping(load_preset(DEFAULT_PRESET))
    lines = [f"Settings for --set and --config, with their values in the preset {DEFAULT_PRESET}:"]
    lines += [f"{name} = {value}: {help}" for name, value, help in describe_settings(config)]
    return "\n\n".join(lines)


def train(
    preset: Annotated[
        str, typer.Argument(metavar="PRESET", help=f"Settings to start from: {', '.join(preset_names())}.")
    ] = DEFAULT_PRESET,
    data: Annotated[
        str | None,
        typer.Option(help="'digits' or 'gaussians' (bundled), a folder of images, a zip, an IDX file, .npy or .npz."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Folder of the run; runs/PRESET by default.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="N", help="Steps to train in all.")] = None,
    seed: Annotated[str | None, typer.Option(metavar="S", help="Seed of everything that is drawn.")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N|auto", help="Images in a step; auto for the most that fit on the GPU.")
    ] = None,
    checkpoint_every: Annotated[str | None, typer.Option(metavar="N", help="Steps between checkpoints.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:INDEX.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="A TOML file of settings.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume a run from its latest checkpoint.")] = None,
) -> int:
    """Train a GAN; without arguments, on the bundled handwritten digits.

    The preset is overridden by --config, that by --set, and that by the options named here.
    """
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
                f"--resume takes the settings of the run, so {refused[0]} cannot be given with it; only --steps can"
            )
    else:
        settings: dict[str, Any] = load_preset(preset)
        if config is not None:
            settings |= load_settings(config)
        settings |= dict(parse_assignment(assignment) for assignment in set_ or [])
        chosen = TrainingConfig.from_mapping(settings | given)

    from fastgan.data import absolute_source
    from fastgan.training.run import resume_run, start_run

    # Of torchrun's processes only the first one reports.
    console = Console(soft_wrap=True, quiet=os.environ.get("RANK", "0") != "0")
    show_log(console)
    if resume is not None:
        received = resume_run(resume, steps=given.get("steps"), console=console)
    else:
        # A run may be resumed from another folder.
        chosen = dataclasses.replace(chosen, data=absolute_source(chosen.data))
        received = start_run(chosen, out or Path("runs") / preset, largest_batch=batch == "auto", console=console)
    return 0 if received is None else 128 + received
