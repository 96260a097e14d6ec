"""Independent streams of random numbers from one seed.

Generators with the same seed draw the same numbers: the first latents would equal the first weights. So each use of a
seed has its own stream, and its generator is seeded from the seed and the stream.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The use of the numbers. The values must not change, so that a seed always gives the same run."""

    SAMPLES = 1
    """Latents of images generated from a seed, after training or as samples during it."""
    WEIGHTS = 2
    """Initial weights of the networks."""
    DATA = 3
    """Choice of the images of a batch."""
    LATENTS = 4
    """Latents for training, and weights of interpolates."""
    NOISE = 5
    """Draws of layers and augmentation, such as dropout; each rank has its own stream."""
    TRANSFORMS = 6
    """Draws of a Dataset's own transforms."""
    METRICS = 7
    """Choice of the images that scores compare, and of their subsets."""


def seed_of(seed: int, stream: Stream, *part: int) -> int:
    """The seed of a stream, from 0 to 2**32 - 1: torch's CPU generator ignores further bits.

    Args:
        seed: an integer from 0, of any size.
        stream: the use of the numbers.
        part: integers from 0 that distinguish streams of one use. Trailing zeros change nothing.
    """
    (state,) = np.random.SeedSequence([seed, stream, *part]).generate_state(1)
    return int(state)
