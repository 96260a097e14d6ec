"""A scatter plot of points of the plane over the eight Gaussians."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from fastgan.data.gaussians import CENTERS, EXTENT, STANDARD_DEVIATION, load_gaussians, to_points
from fastgan.data.pixels import normalize

_REAL, _SAMPLE, _CENTER = (222, 222, 222), (31, 90, 180), (214, 48, 36)
_NUM_REAL = 2000


def scatter(points: Tensor, *, size: int = 400) -> Tensor:
    """Draws points in blue over 2,000 dim points of the data; red circles mark three standard deviations of each mode.

    Args:
        points: points of the plane, floating-point [N, 2]; points outside [-2.5, 2.5] or non-finite are not drawn.
        size: edge length in pixels, for 5 units of the plane; x grows to the right and y upwards.

    Returns:
        uint8 [3, size, size].
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
