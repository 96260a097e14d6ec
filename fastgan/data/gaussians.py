"""Eight Gaussians: points of the plane as images of one pixel. They show in seconds whether a GAN finds all modes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastgan.data.pixels import to_uint8

# Four of them 2 from the origin, the others 1.41; neighbors are 1.41 apart, fourteen standard deviations.
CENTERS = ((2.0, 0.0), (1.0, 1.0), (0.0, 2.0), (-1.0, 1.0), (-2.0, 0.0), (-1.0, -1.0), (0.0, -2.0), (1.0, -1.0))
STANDARD_DEVIATION = 0.1

# The images' -1 and 1 in the plane: five standard deviations beyond the outermost center.
EXTENT = 2.5

NUM_POINTS = 10_000
_SEED = 0


def load_gaussians() -> tuple[np.ndarray, np.ndarray]:
    """10,000 points as images, uint8 [10000, 2, 1, 1], and the modes that they come from, int64 [10000].

    The mode of each point is uniform over the eight ``CENTERS``. The deviation from the center is normal, with a
    standard deviation of 0.1 in x and y, which are the two channels. The seed is fixed.

    A byte is 5 / 255 = 0.0196 of the plane wide, a fifth of the standard deviation. Rounding to the nearest adds a
    variance of a twelfth of its square, 0.3% of the mode's: a standard deviation of 0.10016 instead of 0.1.
    """
    random = np.random.default_rng(_SEED)
    modes = random.integers(len(CENTERS), size=NUM_POINTS)
    points = np.array(CENTERS)[modes] + STANDARD_DEVIATION * random.standard_normal((NUM_POINTS, 2))
    return to_uint8(to_images(torch.from_numpy(points))).numpy(), modes.astype(np.int64)


def to_images(points: Tensor) -> Tensor:
    """Points of the plane, floating-point [N, 2], to images [N, 2, 1, 1]; those within 2.5 of both axes to [-1, 1]."""
    return (points / EXTENT)[:, :, None, None]


def to_points(images: Tensor) -> Tensor:
    """Images [N, 2, 1, 1] in [-1, 1] to points of the plane [N, 2] in [-2.5, 2.5], the inverse of :func:`to_images`."""
    return images[:, :, 0, 0] * EXTENT


def are_points(images: Tensor) -> bool:
    """Whether images are points of the plane: one pixel of two channels each, which no picture has."""
    return has_points(images.shape[1:])


def has_points(image_shape: Sequence[int]) -> bool:
    """Whether images of this shape [C, H, W] are points of the plane."""
    return tuple(image_shape) == (2, 1, 1)
