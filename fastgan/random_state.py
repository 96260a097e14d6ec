"""Preserves the global random state around code that only measures or samples."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Restores the global random states of torch (CPU and CUDA), numpy and Python at its end; also a decorator.

    Measuring, sampling, logging and exporting run inside: constructing a module draws from torch's generator, and a
    user's function or a package may draw from any.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Reading CUDA's state would initialize CUDA, which must not happen in a CPU process or a forked one.
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        elif torch.cuda.is_initialized():
            # CUDA was initialized inside, so its generators are reset to their seeds.
            for generator in torch.cuda.default_generators:
                generator.manual_seed(generator.initial_seed())


@contextmanager
def seeded_random_state(seed: int) -> Iterator[None]:
    """Seeds the global generators of torch (CPU and CUDA), numpy and Python with a 32-bit seed, and restores them."""
    with preserved_random_state():
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Seeds the global generators of torch (CPU, and CUDA if in use), numpy and Python with a 32-bit seed."""
    # torch.manual_seed would also seed CUDA if that is initialized later. In a forked process CUDA is not in use.
    cuda = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    for generator in (torch.default_generator, *cuda):
        generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
