"""The sums of the partials that kernels leave behind."""

import pytest
import torch

from fastgan_kernels.reduction import sum_partials
from fastgan_kernels.tiling import sum_tiling
from tests.kernels.harness import DEVICE


@pytest.mark.parametrize(
    ("shape", "spans"),
    [
        ((1, 1, 1), 1),
        ((5, 3, 7), 1),
        ((3, 70, 1), 1),
        ((2, 0, 3), 1),
        ((0, 3, 1), 1),
        # Two launches: of channels that are neighbors in memory, and that lie apart.
        ((600, 37, 1), 5),
        ((5000, 3, 1), 5),
        ((2, 5, 2401), 5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_over_the_first_and_the_last_axis(shape: tuple[int, int, int], spans: int, dtype: torch.dtype):
    # Whole numbers, so that no order of the sum rounds.
    partials = torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    assert shape[1] == 0 or sum_tiling(shape[1], shape[0], shape[2]).spans == spans
    assert torch.equal(sum_partials(partials), partials.sum((0, 2)))


def test_the_bias_gradient_of_a_large_channels_last_map_fills_a_chip():
    """16 channels of two images of 1024 x 1024: 16,384 partials of each channel."""
    tiling = sum_tiling(16, 16384, 1)
    assert tiling.tiles <= 4
    assert tiling.channel_programs * tiling.spans >= 64
