"""``fastgan interpolate``."""

from enum import StrEnum
from typing import Annotated

import typer

from fastgan.cli.options import Class, Device, Frames, Model, Rows, Run, Seed, SequenceOut, Truncation
from fastgan.training.config import SettingsError


class Space(StrEnum):
    z = "z"
    w = "w"


class Way(StrEnum):
    linear = "linear"
    spherical = "spherical"


def interpolate(
    run: Run,
    model: Model = None,
    count: Rows = 4,
    frames: Frames = None,
    space: Annotated[
        Space, typer.Option(help="Between latents (z), or between what stylegan maps them to (w).")
    ] = Space.z,
    path: Annotated[
        Way | None,
        typer.Option(help="Along a straight line or an arc; by default an arc in z and a line in w."),
    ] = None,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Go from each image of a seed to the next one, a row each; as an animation there and back.

    Images have the numbers that 'fastgan generate --numbered' shows for the same seed. In a conditional run a row keeps
    the class of its first image.
    """
    if space == Space.w and path == Way.spherical:
        raise SettingsError("--path spherical is for --space z: w does not lie near a sphere as latents do")

    import torch

    from fastgan import sampling
    from fastgan.cli.trained import frames_of, load_trained, rendered, sequences

    trained = load_trained(run, device, model)
    generator = trained.generator
    labels = trained.labels(count, class_)
    sampling.check_truncation(generator, truncation)
    if space == Space.w:
        sampling.require_styles(generator, "interpolation in w")
    to = out or run / "interpolation.png"
    sampling.check_output(to, animation=True)
    number = frames_of(frames, to)
    latents = trained.latents(count + 1, seed)
    if space == Space.w:
        w = sampling.map_latents(generator, latents)
        ways = sampling.linear(w[:-1], w[1:], number)
        images = sampling.render_styles(generator, ways.flatten(0, 1), truncation=truncation)
    else:
        way = sampling.linear if path == Way.linear else sampling.spherical
        images = rendered(trained, way(latents[:-1], latents[1:], number), labels, truncation)
    names = [f"{i} to {i + 1}" for i in range(count)]
    sheet = sequences(images, number, labels=labels, names=names, values=torch.linspace(0, 1, number), unit=".2f")
    return trained.write(sheet, to, f"{count} interpolations in {space}, {number} images each", seed)
