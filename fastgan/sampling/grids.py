"""Pictures of many images: grids with optional names of rows and columns, or scatter plots of points."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fastgan.data import to_uint8
from fastgan.data.gaussians import CENTERS, EXTENT, STANDARD_DEVIATION, are_points, load_gaussians, to_points
from fastgan.data.pixels import normalize, to_pillow

_TEXT_SIZE = 10  # pixels, for Pillow's built-in font: the smallest size that is easy to read
_GRAY = 170
_SMALLEST = 32  # pixels; smaller images are enlarged by an integer factor, so that pixels stay squares

# Colors of the points of the data, the samples and the circles around the modes.
_REAL, _SAMPLE, _CENTER = (222, 222, 222), (31, 90, 180), (214, 48, 36)
_NUM_REAL = 2000


def columns_by_class(count: int, num_classes: int) -> int | None:
    """Number of columns such that, with the classes in turn, each column of ``count`` images holds one class.

    None, for a square grid, if that is more than twice as many columns as a square has.
    """
    square = math.ceil(math.sqrt(count))
    columns = num_classes * max(1, square // num_classes)
    return columns if columns <= 2 * square else None


def columns_of(count: int, columns: int | None = None) -> int:
    """Number of columns of a grid: ``columns``, or as square as ``count`` allows; at most ``count``."""
    return min(columns or math.ceil(math.sqrt(count)), count)


def image_grid(
    images: Tensor,
    *,
    columns: int | None = None,
    padding: int = 2,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
) -> Tensor:
    """Lays images out row by row on black, with ``padding`` pixels around and between them.

    Images smaller than 32 pixels are enlarged by an integer factor to at least that.

    Args:
        images: [N, C, H, W] in [-1, 1], N at least 1.
        columns: images per row; by default as square as N allows.
        row_names: names written to the left of each row.
        column_names: names written above each column; a name that would touch the one before is left out.

    Returns:
        uint8 [C, H', W']; 16 images of 32x32 in 4 columns with padding 2 make 138x138.
    """
    factor = max(1, math.ceil(_SMALLEST / max(images.shape[2:])))
    pixels = to_uint8(images).repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    count, channels, height, width = pixels.shape
    columns = columns_of(count, columns)
    rows = math.ceil(count / columns)
    grid = pixels.new_zeros(channels, rows * (height + padding) + padding, columns * (width + padding) + padding)
    for i, image in enumerate(pixels):
        top = padding + i // columns * (height + padding)
        left = padding + i % columns * (width + padding)
        grid[:, top : top + height, left : left + width] = image
    if not row_names and not column_names:
        return grid
    return _with_names(grid, row_names, column_names, (width + padding, height + padding))


def save_png(pixels: Tensor, path: Path | BinaryIO) -> None:
    """Writes uint8 pixels [C, H, W], gray (C = 1) or color (C = 3), as a PNG file."""
    to_pillow(pixels).save(path, format="PNG")


def picture(images: Tensor, **layout: Any) -> Tensor:
    """Makes one picture, uint8 [C', H', W'], of images [N, C, H, W] in [-1, 1]: a grid, or a scatter plot of points.

    ``layout`` is that of :func:`image_grid`; a scatter plot has none.
    """
    return scatter(to_points(images)) if are_points(images) else image_grid(images, **layout)


def scatter(points: Tensor, *, size: int = 400) -> Tensor:
    """Draws points in blue over 2,000 dim points of the data; red circles mark three standard deviations of each mode.

    ``points`` are points of the plane, floating-point [N, 2]; those outside [-2.5, 2.5] or non-finite are not drawn.
    The picture, uint8 [3, size, size], shows 5 units of the plane; x grows to the right and y upwards.
    """
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    real = to_points(normalize(torch.from_numpy(load_gaussians()[0][:_NUM_REAL])))
    for positions, color in ((real, _REAL), (points, _SAMPLE)):
        positions = positions[positions.isfinite().all(dim=1)].cpu().double()
        for x, y in _pixels(positions, size).tolist():
            draw.rectangle((x - 1, y - 1, x, y), fill=color)  # two pixels wide, to be visible
    radius = 3 * STANDARD_DEVIATION * size / (2 * EXTENT)
    for x, y in _pixels(torch.tensor(CENTERS, dtype=torch.float64), size).tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=_CENTER)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def _pixels(points: Tensor, size: int) -> Tensor:
    """Columns and rows of points in the picture, whose top left corner is (-2.5, 2.5)."""
    x, y = points.unbind(dim=1)
    return torch.stack([(x + EXTENT), (EXTENT - y)], dim=1) * (size / (2 * EXTENT))


def _with_names(grid: Tensor, row_names: Sequence[str], column_names: Sequence[str], cell: tuple[int, int]) -> Tensor:
    """Adds margins with the names to a grid, on the left for rows and on top for columns."""
    font = ImageFont.load_default(_TEXT_SIZE)
    left = max((math.ceil(font.getlength(name)) + 4 for name in row_names), default=0)
    top = _TEXT_SIZE + 4 if column_names else 0
    channels, height, width = grid.shape
    margins = Image.new("L", (left + width, top + height))
    draw = ImageDraw.Draw(margins)
    for i, name in enumerate(row_names):
        draw.text((left - 2, round(top + (i + 0.5) * cell[1])), name, fill=_GRAY, font=font, anchor="rm")
    end = 0.0
    for i, name in enumerate(column_names):
        center, half = left + (i + 0.5) * cell[0], font.getlength(name) / 2
        if center - half >= end:
            draw.text((round(center), top - 2), name, fill=_GRAY, font=font, anchor="mb")
            end = center + half + 3
    pixels = torch.from_numpy(np.asarray(margins).copy()).expand(channels, -1, -1).clone()
    pixels[:, top:, left:] = grid
    return pixels
