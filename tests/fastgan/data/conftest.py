"""Small images, and the check of a refusal."""

import numpy as np
import pytest

from fastgan.data import DataError, load_dataset, open_dataset


@pytest.fixture
def gray() -> np.ndarray:
    """uint8 [5, 6, 6]."""
    return np.random.default_rng(0).integers(0, 256, (5, 6, 6), np.uint8)


@pytest.fixture
def rgb() -> np.ndarray:
    """uint8 [5, 6, 6, 3]."""
    return np.random.default_rng(1).integers(0, 256, (5, 6, 6, 3), np.uint8)


def read_one_by_one(source, **options):
    dataset = open_dataset(source, **options)
    return [dataset[index] for index in range(len(dataset))]


@pytest.fixture
def refused():
    """``refused(source, *parts)`` asserts that loading raises DataError, in one sentence that contains each part.

    So does reading the images one by one, except where they are only too large for the memory.
    """

    def check(source, *parts: str, **options) -> str:
        for read in (load_dataset, read_one_by_one):
            with pytest.raises(DataError) as caught:
                read(str(source), **options)
            sentence = str(caught.value)
            assert sentence.endswith(".")
            assert "\n" not in sentence
            assert "expected" in sentence or "promises" in sentence
            for part in parts:
                assert part in sentence, sentence
            if "GiB of memory" in sentence:
                break
        return sentence

    return check
