"""Keeping what only looks from changing what is drawn next."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Puts the global random number generators of torch, on the CPU and on CUDA, of numpy and of Python back.

    What measures, samples, logs or exports runs inside: constructing a module draws from torch's generator, and a
    user's own function or a package may draw from any. As a decorator it holds for each call.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Asking CUDA would start it, which a process on the CPU and a forked one are not to do.
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
            # Nothing had been drawn from generators that were not there: they begin with their seeds.
            for generator in torch.cuda.default_generators:
                generator.manual_seed(generator.initial_seed())
