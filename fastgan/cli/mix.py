"""``fastgan mix``."""

from typing import Annotated

import typer

from fastgan.cli.options import Device, Model, PictureOut, Run, Seed, Truncation


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
    """Mix the styles of images A, a row each, with those of images B, a column each; only for model stylegan.

    A are the first images of the seed, B those that follow, numbered as 'fastgan generate --numbered' shows them.
    """
    import torch

    from fastgan import sampling
    from fastgan.cli.trained import load_trained

    trained = load_trained(run, device, model)
    generator = sampling.require_styles(trained.generator, "mixing styles")
    layers = sampling.layers_of(generator, crossover)
    sampling.check_truncation(generator, truncation)
    to = out or run / "mixed.png"
    sampling.check_output(to)
    w = sampling.map_latents(generator, trained.latents(2 * count, seed))
    mixed = sampling.mix_all(generator, w[:count], w[count:], layers).flatten(0, 1)
    unmixed = sampling.render_styles(generator, w, truncation=truncation)
    images = sampling.render_styles(generator, mixed, truncation=truncation).unflatten(0, (count, count))
    top = torch.cat([torch.full_like(unmixed[:1], -1), unmixed[count:]])
    rows = torch.cat([unmixed[:count, None], images], dim=1).flatten(0, 1)
    row_names = ["", *(f"A {i}" for i in range(count))]
    column_names = ["", *(f"B {i}" for i in range(count, 2 * count))]
    sheet = sampling.Sheet(torch.cat([top, rows]), count + 1, row_names, column_names, {"seed": seed})
    first, end = (2 ** (layer // 2 + 2) for layer in (layers[0], layers[1] - 2))
    return trained.write(sheet, to, f"{count} by {count} images with B's styles at {first} to {end}", seed)
