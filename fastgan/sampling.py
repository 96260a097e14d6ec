"""Images out of a trained generator, and pictures of them: grids, or a scatter where they are points of the plane."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastgan.data import to_uint8
from fastgan.data.gaussians import are_points, to_points
from fastgan.scatter import scatter


def draw_latents(count: int, latent_dim: int, *, seed: int) -> Tensor:
    """Draws standard normal latents, float32 [count, latent_dim] on the CPU; row i depends on ``seed`` and i alone."""
    random = torch.Generator().manual_seed(seed)
    # Row by row: a single call fills its last values differently when more rows are asked for.
    return torch.stack([torch.randn(latent_dim, generator=random) for _ in range(count)])


def labels_in_turn(count: int, num_classes: int) -> Tensor:
    """The class numbers 0 to ``num_classes`` - 1 over and over, int64 [count]."""
    return torch.arange(count) % num_classes


def check_truncation(generator: nn.Module, truncation: float) -> None:
    """Refuses a truncation below 1 of a generator that has none.

    Raises:
        ValueError: one sentence.
    """
    if truncation != 1 and not hasattr(generator, "truncate"):
        raise ValueError(f"truncation is {truncation}, and this generator has none; only that of model stylegan has")


@torch.inference_mode()
def render(
    generator: nn.Module,
    latents: Tensor,
    labels: Tensor | None = None,
    *,
    truncation: float = 1.0,
    batch_size: int = 64,
) -> Tensor:
    """Runs a generator in evaluation mode, in batches, and leaves it in the mode that it was in.

    Args:
        generator: maps latents [n, latent_dim] to images [n, C, H, W] in [-1, 1]; a conditional one takes labels too.
        latents: [N, latent_dim], on any device.
        labels: int64 [N], on any device, of a conditional generator.
        truncation: how far images may be from the average one, 0 to 1; below 1 only of a generator with ``truncate``.
        batch_size: how many images are made at a time; in evaluation mode no image depends on its batch.

    Returns:
        float32 [N, C, H, W] in [-1, 1], on the CPU.

    Raises:
        ValueError: for a truncation of another generator; one sentence.
    """
    check_truncation(generator, truncation)
    options = {} if truncation == 1 else {"truncation": truncation}
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    try:
        inputs = [tensor.to(device).split(batch_size) for tensor in (latents, labels) if tensor is not None]
        return torch.cat([generator(*batch, **options).float().cpu() for batch in zip(*inputs, strict=True)])
    finally:
        generator.train(was_training)


def generate(
    generator: nn.Module,
    count: int,
    *,
    labels: Tensor | None = None,
    truncation: float = 1.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Generates images from a seed.

    The same seed gives the same images, and more of them when ``count`` grows, whatever the batch size, as far as
    floating-point sums are the same in batches of different sizes.

    Args:
        generator: as in :func:`render`, with ``latent_dim``; a conditional one with ``num_classes``.
        count: how many images, at least 1.
        labels: of a conditional generator, int64 [count]; where ``None`` the classes in turn.
        truncation: as in :func:`render`.
        seed: from 0 to 2**63 - 1.
        batch_size: how many are made at a time.

    Returns:
        float32 [count, C, H, W] in [-1, 1], on the CPU.

    Raises:
        ValueError: for labels or a truncation that the generator does not have, or not a label for each image; one
            sentence.
    """
    num_classes = getattr(generator, "num_classes", None)
    if labels is not None:
        if num_classes is None:
            raise ValueError("the generator is unconditional and takes no labels")
        if labels.shape != (count,):
            raise ValueError(f"labels have shape {list(labels.shape)}, expected [{count}], one for each image")
        if not ((labels >= 0) & (labels < num_classes)).all():
            raise ValueError(
                f"labels are from {labels.min()} to {labels.max()}, expected class numbers from 0 to {num_classes - 1}"
            )
    elif num_classes is not None:
        labels = labels_in_turn(count, num_classes)
    latents = draw_latents(count, generator.latent_dim, seed=seed)
    return render(generator, latents, labels, truncation=truncation, batch_size=batch_size)


def columns_by_class(count: int, num_classes: int) -> int | None:
    """Columns of a grid of ``count`` images with the classes in turn, such that each column holds one class.

    None, for the usual columns, where that would be more than twice as many as in a square.
    """
    square = math.ceil(math.sqrt(count))
    columns = num_classes * max(1, square // num_classes)
    return columns if columns <= 2 * square else None


def image_grid(images: Tensor, *, columns: int | None = None, padding: int = 2) -> Tensor:
    """Lays images out row by row on black, with ``padding`` pixels around and between them.

    Args:
        images: [N, C, H, W] in [-1, 1], N at least 1.
        columns: images a row; by default as square as N allows.
        padding: pixels.

    Returns:
        uint8 [C, H', W']; 16 images of 28x28 in 4 columns with padding 2 make 122x122.
    """
    count, channels, height, width = images.shape
    if columns is None:
        columns = math.ceil(math.sqrt(count))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    pixels = to_uint8(images)
    grid = pixels.new_zeros(channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    for i, image in enumerate(pixels):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        grid[:, top : top + height, left : left + width] = image
    return grid


def save_png(pixels: Tensor, path: Path) -> None:
    """Writes uint8 pixels [C, H, W], grey (C = 1) or colour (C = 3), as a PNG file."""
    array = pixels.permute(1, 2, 0).cpu().numpy()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(path)


def picture(images: Tensor, *, columns: int | None = None) -> Tensor:
    """One picture of all images [N, C, H, W] in [-1, 1], uint8 [C', H', W']: a grid, or a scatter of points."""
    return scatter(to_points(images)) if are_points(images) else image_grid(images, columns=columns)


def save_images(images: Tensor, folder: Path, *, columns: int | None = None) -> list[Path]:
    """Writes images [N, C, H, W] in [-1, 1] to an existing folder: ``grid.png``, and ``00000.png`` and so on.

    ``columns`` are those of the grid, as in :func:`image_grid`. Points of the plane are written as ``points.png``, a
    scatter, and ``points.csv`` with a line "x,y" for each.

    Returns:
        The files, the picture of all first.
    """
    if are_points(images):
        files = [folder / "points.png", folder / "points.csv"]
        np.savetxt(files[1], to_points(images).numpy(), fmt="%.6g", delimiter=",", header="x,y", comments="")
    else:
        files = [folder / "grid.png", *(folder / f"{i:05d}.png" for i in range(len(images)))]
        for pixels, path in zip(to_uint8(images), files[1:], strict=True):
            save_png(pixels, path)
    save_png(picture(images, columns=columns), files[0])
    return files
