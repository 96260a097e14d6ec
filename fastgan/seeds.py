"""Independent streams of random numbers out of one seed.

Generators of one kind that are seeded alike draw the same numbers: latents would begin with the weights that they go
through. So each use of a seed has a stream, and seeds its generator with a number that follows from both.
"""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What is drawn. The numbers are part of what a seed means: they stay."""

    SAMPLES = 1
    """Latents of images that are generated from a seed, after training or to look at while it goes."""
    WEIGHTS = 2
    """The first weights of the networks."""
    DATA = 3
    """Which images a batch is of."""
    LATENTS = 4
    """Latents to train with, and points between real and generated images."""
    NOISE = 5
    """What layers and augmentation draw, such as dropout; each rank has its own."""


def seed_of(seed: int, stream: Stream, *part: int) -> int:
    """The seed of a stream, from 0 to 2**32 - 1: torch's generator on the CPU takes notice of no more bits.

    Args:
        seed: from 0, of any number of bits.
        stream: what is drawn.
        part: integers from 0 that tell streams of one kind apart. Zeros at the end change nothing.
    """
    (state,) = np.random.SeedSequence([seed, stream, *part]).generate_state(1)
    return int(state)
