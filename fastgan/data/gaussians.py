"""Eight Gaussians: points of the plane as one-pixel images, to show in seconds whether a GAN covers all modes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastgan.data.pixels import to_uint8

# Four centers are 2 from the origin, the others 1.41; neighbors are 1.41 apart, fourteen standard deviations.
CENTERS = ((2.0, 0.0), (1.0, 1.0), (0.0, 2.0), (-1.0, 1.0), (-2.0, 0.0), (-1.0, -1.0), (0.0, -2.0), (1.0, -1.0))
STANDARD_DEVIATION = 0.1

# Coordinate that maps to 1 in images: five standard deviations beyond the outermost center.
EXTENT = 2.5

NUM_POINTS = 10_000
_SEED = 0


def load_gaussians() -> tuple[np.ndarray, np.ndarray]:
    """10,000 points as images, uint8 [10000, 2, 1, 1], and their modes, int64 [10000].

    The mode of each point is uniform over the eight ``CENTERS``. The deviation from the center is normal, with a
    standard deviation of 0.1 in x and y, which are the two channels. The seed is fixed.

    A step of one byte is 5 / 255 = 0.0196 in the plane, a fifth of the standard deviation. Rounding to the nearest adds
    a twelfth of its square to the variance, 0.3%: the standard deviation is 0.10016 instead of 0.1.
    """
    random = np.random.default_rng(_SEED)
    modes = random.integers(len(CENTERS), size=NUM_POINTS)
    points = np.array(CENTERS)[modes] + STANDARD_DEVIATION * random.standard_normal((NUM_POINTS, 2))
    return to_uint8(to_images(torch.from_numpy(points))).numpy(), modes.astype(np.int64)


def to_images(points: Tensor) -> Tensor:
    """Converts points of the plane, floating-point [N, 2], to images [N, 2, 1, 1]; maps [-2.5, 2.5] to [-1, 1]."""
    return (points / EXTENT)[:, :, None, None]


def to_points(images: Tensor) -> Tensor:
    """Converts images [N, 2, 1, 1] in [-1, 1] to points [N, 2] in [-2.5, 2.5]; the inverse of :func:`to_images`."""
    return images[:, :, 0, 0] * EXTENT


def are_points(images: Tensor) -> bool:
    """Whether images are points of the plane: each has one pixel with two channels, unlike any picture."""
    return has_points(images.shape[1:])


def has_points(image_shape: Sequence[int]) -> bool:
    """Whether images of this shape [C, H, W] are points of the plane."""
    return tuple(image_shape) == (2, 1, 1)
