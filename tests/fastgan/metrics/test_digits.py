"""The classifier of generated digits, on real ones."""

import pytest
import torch

from fastgan.data import load_dataset, normalize
from fastgan.metrics.digits import classify_digits


@pytest.mark.parametrize("resolution", [8, 28, 32])
def test_it_is_right_on_real_digits_of_every_size(resolution):
    digits = load_dataset("digits", resolution=resolution)
    found = classify_digits(normalize(digits.images))
    assert found.dtype == torch.int64
    assert (found == digits.labels).float().mean() >= 0.98


def test_it_is_wrong_on_digits_that_are_none():
    digits = load_dataset("digits", resolution=32)
    found = classify_digits(-normalize(digits.images))  # dark on light
    assert (found == digits.labels).float().mean() < 0.5


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 3, 8, 8), (2, 1, 8, 16), (2, 1, 4, 4)])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected \[N, 1, S, S\] with S at least 8"):
        classify_digits(torch.zeros(shape))
