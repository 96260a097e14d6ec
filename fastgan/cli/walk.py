"""``fastgan walk``."""

import math
from typing import Annotated

import typer

from fastgan.cli.options import Class, Device, Frames, Model, Rows, Run, Seed, SequenceOut, Truncation
from fastgan.training.config import SettingsError


def walk(
    run: Run,
    model: Model = None,
    dimension: Annotated[
        int | None, typer.Option(metavar="I", help="The dimension of the latent that changes; 0 by default.")
    ] = None,
    component: Annotated[
        int | None,
        typer.Option(
            metavar="I", help="Instead of a dimension, only for model stylegan: a principal component of w, from 0."
        ),
    ] = None,
    reach: Annotated[
        float, typer.Option(min=0.01, max=100, metavar="R", help="Distance to both sides, in standard deviations.")
    ] = 3.0,
    count: Rows = 4,
    frames: Frames = None,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Change one dimension of latents, or w along a principal component, and keep the rest; a row for each latent."""
    if dimension is not None and component is not None:
        raise SettingsError("--dimension and --component cannot be combined; give one of them")
    if not math.isfinite(reach):
        raise SettingsError(f"--reach is {reach}, expected a number")

    import torch

    from fastgan import sampling
    from fastgan.cli.trained import frames_of, load_trained, rendered, sequences

    trained = load_trained(run, device, model)
    generator = trained.generator
    labels = trained.labels(count, class_)
    sampling.check_truncation(generator, truncation)
    latents = trained.latents(count, seed)
    to = out or run / "walk.png"
    number = frames_of(frames, to)
    values = torch.linspace(-reach, reach, number)
    if component is None:
        ways = sampling.along_dimension(latents, dimension or 0, values)
        sampling.check_output(to, animation=True)
        images = rendered(trained, ways, labels, truncation)
        what = f"dimension {dimension or 0} of the latent"
    else:
        sampling.require_styles(generator, "a walk along a component of w")
        sampling.check_component(generator, component)
        sampling.check_output(to, animation=True)
        directions = sampling.principal_directions(generator)
        direction = directions.vectors[component] * directions.deviations[component]
        ways = sampling.along(sampling.map_latents(generator, latents), direction, values)
        images = sampling.render_styles(generator, ways.flatten(0, 1), truncation=truncation)
        what = f"component {component} of w"
    names = [str(i) for i in range(count)]
    sheet = sequences(images, number, labels=labels, names=names, values=values, unit="+.1f")
    return trained.write(sheet, to, f"{count} walks along {what}, {number} images each", seed)
