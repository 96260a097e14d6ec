"""Independent streams of random numbers out of one seed.

Generators with the same seed draw the same numbers: the first latents would equal the first weights. So each use of a
seed has a stream, and its generator is seeded from both.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. The numbers must not change, because a seed has to give the same run."""

    SAMPLES = 1
    """Latents of images that are generated from a seed, after training or as samples during it."""
    WEIGHTS = 2
    """The first weights of the networks."""
    DATA = 3
    """Which images a batch is of."""
    LATENTS = 4
    """Latents to train with, and points between real and generated images."""
    NOISE = 5
    """Draws of layers and augmentation, such as dropout; each rank has its own."""
    TRANSFORMS = 6
    """Draws of a Dataset's own transforms."""
    METRICS = 7
    """Which images scores compare, and their subsets."""


def seed_of(seed: int, stream: Stream, *part: int) -> int:
    """The seed of a stream, from 0 to 2**32 - 1: torch's generator on the CPU takes notice of no more bits.

    Args:
        seed: from 0, of any number of bits.
        stream: what is drawn.
        part: integers from 0 that distinguish streams of one kind. Zeros at the end change nothing.
    """
    (state,) = np.random.SeedSequence([seed, stream, *part]).generate_state(1)
    return int(state)
