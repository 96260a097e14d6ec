"""``fastgan generate``, ``interpolate``, ``walk``, ``mix`` and ``truncation``: images of a trained generator."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fastgan.cli.options import (
    Class,
    Device,
    Frames,
    Model,
    PictureOut,
    Rows,
    Run,
    Seed,
    SequenceOut,
    Trained,
    Truncation,
    load_trained,
)
from fastgan.training.config import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from fastgan.sampling import Sheet


def generate(
    run: Run,
    model: Model = None,
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images.")] = 64,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    numbered: Annotated[bool, typer.Option("--numbered", help="Write numbers and classes on the grid.")] = False,
    out: PictureOut = None,
    device: Device = "auto",
) -> int:
    """Generate images with the EMA generator of a run: by default a folder with a grid and one PNG each.

    Points of the plane become a scatter plot and a table.
    """
    from fastgan import sampling

    trained = load_trained(run, device, model)
    labels = _labels(trained, count, class_)
    sampling.check_truncation(trained.generator, truncation)
    path = out or run / "generated"
    sampling.check_output(path)
    of_classes, columns, column_names = "", None, []
    class_names = getattr(trained.generator, "class_names", None)
    if class_ is not None:
        of_classes = f" of class {class_}"
    elif labels is not None:
        num_classes = trained.generator.num_classes
        of_classes = f" of classes 0 to {num_classes - 1} in turn"
        columns = sampling.columns_by_class(count, num_classes)
        if columns is not None:
            column_names = [class_names[k] if class_names else str(k) for k in labels[:columns].tolist()]
    images = sampling.generate(trained.generator, count, labels=labels, truncation=truncation, seed=seed)
    columns = sampling.columns_of(count, columns)
    arrays = {"seed": seed} | ({} if labels is None else {"labels": labels.numpy()})
    row_names = [f"{i} ..." for i in range(0, count, columns)]
    names = (row_names if numbered else (), column_names if numbered or class_names else ())
    return _write(trained, sampling.Sheet(images, columns, *names, arrays), path, f"{count} images{of_classes}", seed)


def interpolate(
    run: Run,
    model: Model = None,
    count: Rows = 4,
    frames: Frames = None,
    space: Annotated[
        Literal["z", "w"], typer.Option(help="Interpolate latents (z), or the mapped latents of stylegan (w).")
    ] = "z",
    path: Annotated[
        Literal["linear", "spherical"] | None,
        typer.Option(help="Straight line or arc; by default an arc in z and a line in w."),
    ] = None,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Interpolate from each image of a seed to the next one, in one row each; an animation plays forwards and back.

    Images have the numbers that 'fastgan generate --numbered' shows for the same seed. In a conditional run a row keeps
    the class of its first image.
    """
    if space == "w" and path == "spherical":
        raise SettingsError("--path spherical is for --space z: w does not lie near a sphere as latents do")

    import torch

    from fastgan import sampling

    trained = load_trained(run, device, model)
    generator = trained.generator
    labels = _labels(trained, count, class_)
    sampling.check_truncation(generator, truncation)
    if space == "w":
        sampling.require_styles(generator, "interpolation in w")
    to, number = _sequence(out or run / "interpolation.png", frames)
    points = sampling.draw_latents(count + 1, generator.latent_dim, seed=seed)
    if space == "w":
        points = sampling.map_latents(generator, points)
    way = sampling.linear if path == "linear" or space == "w" else sampling.spherical
    points = way(points[:-1], points[1:], number)
    names = [f"{i} to {i + 1}" for i in range(count)]
    images = _render(trained, points, labels, truncation, in_w=space == "w")
    sheet = _rows(images, torch.linspace(0, 1, number), ".2f", names, labels)
    return _write(trained, sheet, to, f"{count} interpolations in {space}, {number} images each", seed)


def walk(
    run: Run,
    model: Model = None,
    dimension: Annotated[
        int | None, typer.Option(metavar="I", help="Dimension of the latent to vary; 0 by default.")
    ] = None,
    component: Annotated[
        int | None,
        typer.Option(metavar="I", help="Principal component of w to vary instead, from 0; only for model stylegan."),
    ] = None,
    reach: Annotated[
        float, typer.Option(min=0.01, max=100, metavar="R", help="Distance in both directions, in standard deviations.")
    ] = 3.0,
    count: Rows = 4,
    frames: Frames = None,
    seed: Seed = 0,
    class_: Class = None,
    truncation: Truncation = 1.0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Vary one dimension of each latent, or w along a principal component; one row per latent."""
    if dimension is not None and component is not None:
        raise SettingsError("--dimension and --component cannot be combined; give one of them")
    if not math.isfinite(reach):
        raise SettingsError(f"--reach is {reach}, expected a number")

    import torch

    from fastgan import sampling

    trained = load_trained(run, device, model)
    generator = trained.generator
    labels = _labels(trained, count, class_)
    sampling.check_truncation(generator, truncation)
    if component is not None:
        sampling.require_styles(generator, "a walk along a component of w")
        sampling.check_component(generator, component)
    to, number = _sequence(out or run / "walk.png", frames)
    values = torch.linspace(-reach, reach, number)
    latents = sampling.draw_latents(count, generator.latent_dim, seed=seed)
    if component is None:
        points = sampling.along_dimension(latents, dimension or 0, values)
        what = f"dimension {dimension or 0} of the latent"
    else:
        directions = sampling.principal_directions(generator)
        direction = directions.vectors[component] * directions.deviations[component]
        points = sampling.map_latents(generator, latents)[:, None] + values[:, None] * direction
        what = f"component {component} of w"
    images = _render(trained, points, labels, truncation, in_w=component is not None)
    sheet = _rows(images, values, "+.1f", [str(i) for i in range(count)], labels)
    return _write(trained, sheet, to, f"{count} walks along {what}, {number} images each", seed)


def mix(
    run: Run,
    model: Model = None,
    crossover: Annotated[
        str,
        typer.Option(
            metavar="R",
            help="B's styles from this resolution on, or only its coarse (4-8), middle (16-32) or fine (64-) styles.",
        ),
    ] = "8",
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Number of images A, and of images B.")] = 5,
    seed: Seed = 0,
    truncation: Truncation = 1.0,
    out: PictureOut = None,
    device: Device = "auto",
) -> int:
    """Mix the styles of images A (rows) with those of images B (columns); only for model stylegan.

    A are the first images of the seed and B the next ones, numbered as by 'fastgan generate --numbered'.
    """
    import torch

    from fastgan import sampling

    trained = load_trained(run, device, model)
    generator = sampling.require_styles(trained.generator, "mixing styles")
    layers = sampling.layers_of(generator, crossover)
    to = out or run / "mixed.png"
    sampling.check_output(to)
    w = sampling.map_latents(generator, sampling.draw_latents(2 * count, generator.latent_dim, seed=seed))
    mixed = sampling.mix_all(generator, w[:count], w[count:], layers).flatten(0, 1)
    unmixed = sampling.render_styles(generator, w, truncation=truncation)
    images = sampling.render_styles(generator, mixed, truncation=truncation).unflatten(0, (count, count))
    top = torch.cat([torch.full_like(unmixed[:1], -1), unmixed[count:]])
    rows = torch.cat([unmixed[:count, None], images], dim=1).flatten(0, 1)
    row_names = ["", *(f"A {i}" for i in range(count))]
    column_names = ["", *(f"B {i}" for i in range(count, 2 * count))]
    sheet = sampling.Sheet(torch.cat([top, rows]), count + 1, row_names, column_names, {"seed": seed})
    first, end = (2 ** (layer // 2 + 2) for layer in (layers[0], layers[1] - 2))
    return _write(trained, sheet, to, f"{count} by {count} images with B's styles at {first} to {end}", seed)


def truncation(
    run: Run,
    model: Model = None,
    count: Rows = 4,
    frames: Frames = None,
    seed: Seed = 0,
    out: SequenceOut = None,
    device: Device = "auto",
) -> int:
    """Show truncation in model stylegan: one row per image, from the average image (psi 0) to the image (psi 1)."""
    import torch

    from fastgan import sampling

    trained = load_trained(run, device, model)
    generator = sampling.require_styles(trained.generator, "truncation")
    to, number = _sequence(out or run / "truncation.png", frames)
    w = sampling.map_latents(generator, sampling.draw_latents(count, generator.latent_dim, seed=seed))
    images = _render(trained, sampling.linear(generator.w_mean.cpu().expand_as(w), w, number), in_w=True)
    sheet = _rows(images, torch.linspace(0, 1, number), ".2f", [str(i) for i in range(count)])
    return _write(trained, sheet, to, f"Truncation of {count} images, {number} steps", seed)


def _labels(trained: Trained, count: int, class_: int | None) -> "Tensor | None":
    """A label for each image: ``class_``, or the classes in turn; None for an unconditional generator."""
    import torch

    from fastgan.sampling import labels_in_turn

    num_classes = trained.generator.num_classes
    if class_ is None:
        return None if num_classes is None else labels_in_turn(count, num_classes)
    run = f"run {str(trained.source)!r}"
    if num_classes is None:
        raise SettingsError(f"{run} has no classes, so --class cannot be given; it needs a run with conditional = true")
    if not 0 <= class_ < num_classes:
        raise SettingsError(f"--class is {class_}, and {run} has the classes 0 to {num_classes - 1}")
    return torch.full((count,), class_)


def _sequence(out: Path, frames: int | None) -> tuple[Path, int]:
    """The checked output of a sequence, and ``frames``, by default as many as suit a picture or an animation."""
    from fastgan.sampling import ANIMATIONS, check_output

    check_output(out, animation=True)
    return out, frames or (48 if out.suffix in ANIMATIONS else 9)


def _render(
    trained: Trained, points: "Tensor", labels: "Tensor | None" = None, truncation: float = 1.0, *, in_w: bool
) -> "Tensor":
    """Images [R * F, C, H, W] of w or latents [R, F, D], each row with its label."""
    from fastgan.sampling import render, render_styles

    if in_w:
        return render_styles(trained.generator, points.flatten(0, 1), truncation=truncation)
    repeated = None if labels is None else labels.repeat_interleave(points.shape[1])
    return render(trained.generator, points.flatten(0, 1), repeated, truncation=truncation)


def _rows(images: "Tensor", values: Any, unit: str, names: list[str], labels: "Tensor | None" = None) -> "Sheet":
    """The sheet of rows of images, whose columns belong to ``values``, formatted by ``unit``."""
    from fastgan.sampling import Sheet

    arrays = {"values": values.numpy()}
    if labels is not None:
        arrays["labels"] = labels.numpy()
        names = [f"{name}, class {label}" for name, label in zip(names, labels.tolist(), strict=True)]
    return Sheet(images, len(values), names, [format(value, unit) for value in values.tolist()], arrays)


def _write(trained: Trained, sheet: "Sheet", path: Path, what: str, seed: int) -> int:
    """Writes images and reports the files."""
    from fastgan.sampling import write_sheet

    files = write_sheet(sheet, path)
    others = ""
    if len(files) > 1:
        others = f" and {'one PNG each' if files[1].suffix == '.png' else files[1].name} next to it"
    step = "" if trained.step is None else f" from step {trained.step}"
    trained.say(f"{what}{step}, seed {seed}: {files[0]}{others}")
    return 0
