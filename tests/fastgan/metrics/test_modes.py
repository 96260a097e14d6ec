import pytest
import torch

from fastgan.data import load_dataset, normalize
from fastgan.data.gaussians import CENTERS, to_points
from fastgan.metrics.modes import mode_coverage


def at(*counts, offset=(0.0, 0.0)):
    """So many points at each center, moved by an offset."""
    centers = torch.tensor(CENTERS[: len(counts)], dtype=torch.float64).repeat_interleave(torch.tensor(counts), 0)
    return centers + torch.tensor(offset, dtype=torch.float64)


def test_points_at_the_centers_are_counted_exactly():
    coverage = mode_coverage(torch.cat([at(10, 20, 0, 30), torch.zeros(40, 2, dtype=torch.float64)]))
    assert coverage.counts == (10, 20, 0, 30, 0, 0, 0, 0)
    assert coverage.num_samples == 100
    assert coverage.high_quality == 0.6
    assert coverage.captured == 3


def test_a_mode_is_captured_from_two_percent_of_all_samples():
    assert mode_coverage(at(980, 20)).captured == 2
    assert mode_coverage(at(981, 19)).captured == 1
    # Of all samples, not of those near a center.
    assert mode_coverage(torch.cat([at(10), torch.zeros(990, 2, dtype=torch.float64)])).captured == 0


@pytest.mark.parametrize("direction", [(1, 0), (0, -1), (0.6, 0.8)])
def test_near_is_within_three_standard_deviations_in_any_direction(direction):
    def quality(distance):
        return mode_coverage(at(*[1] * 8, offset=(direction[0] * distance, direction[1] * distance))).high_quality

    assert quality(0.2999) == 1
    assert quality(0.3001) == 0


def test_the_data_capture_every_mode():
    coverage = mode_coverage(to_points(normalize(load_dataset("gaussians").images)))
    assert coverage.captured == 8
    # 1 - exp(-9 / 2), rounding to bytes left aside, and five standard errors of 10,000 samples.
    assert abs(coverage.high_quality - 0.98889) < 5 * (0.98889 * 0.01111 / 10_000) ** 0.5


def test_points_that_are_not_finite_are_near_no_center():
    points = torch.tensor([[torch.nan, 0.0], [torch.inf, 0.0], [2.0, 0.0]])
    assert mode_coverage(points).counts == (1, 0, 0, 0, 0, 0, 0, 0)
