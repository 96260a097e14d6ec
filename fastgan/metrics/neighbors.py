"""Precision, recall, density and coverage, from nearest neighbors among features."""

from typing import NamedTuple

import torch
from torch import Tensor

# Kynkäänniemi et al. 2019, section 3.1; Naeem et al. 2020, section 4.
PRECISION_NEIGHBORS = 3
COVERAGE_NEIGHBORS = 5

MIN_COUNT = COVERAGE_NEIGHBORS + 1

# Number of distances in memory at a time: 128 MiB.
_MAX_DISTANCES = 2**24


class NeighborScores(NamedTuple):
    """See :func:`neighbor_scores`."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbor_scores(real: Tensor, generated: Tensor) -> NeighborScores:
    """Measures how well the neighborhoods of two samples cover each other.

    The ball of an image reaches to its k-th nearest neighbor in its own sample, not counting itself.

    - precision, recall: the share of generated images in the ball of a real one, and the share of real images in the
      ball of a generated one, k = 3 (Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, equation 2).
    - density: the mean number of real balls that contain a generated image, divided by k; may exceed 1. coverage: the
      share of real balls that contain a generated image. Both with k = 5 (Naeem et al. 2020,
      https://arxiv.org/abs/2002.09797, equations 4 and 5).

    Args:
        real: features, floating-point [N, F], N at least 6; computed in float64.
        generated: features, [M, F], M at least 6.
    """
    real, generated = real.double(), generated.double()
    real_small, real_large = _radii(real, PRECISION_NEIGHBORS, COVERAGE_NEIGHBORS)
    (generated_small,) = _radii(generated, PRECISION_NEIGHBORS)
    precise = inside = 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    nearest = torch.full((len(real),), torch.inf, dtype=real.dtype, device=real.device)
    rows = _rows(len(real))
    for points, radii in zip(generated.split(rows), generated_small.split(rows), strict=True):
        distances = torch.cdist(points, real)
        precise += (distances <= real_small).any(dim=1).sum().item()
        inside += (distances <= real_large).sum().item()
        recalled |= (distances <= radii[:, None]).any(dim=0)
        nearest = torch.minimum(nearest, distances.amin(dim=0))
    return NeighborScores(
        precision=precise / len(generated),
        recall=recalled.double().mean().item(),
        density=inside / (COVERAGE_NEIGHBORS * len(generated)),
        coverage=(nearest <= real_large).double().mean().item(),
    )


def _radii(points: Tensor, *neighbors: int) -> list[Tensor]:
    """For each k, the distance [N] of each point [N, F] to its k-th nearest neighbor."""
    nearest = [
        # One more neighbor, since the nearest is the point itself.
        torch.cdist(rows, points).topk(max(neighbors) + 1, largest=False).values
        for rows in points.split(_rows(len(points)))
    ]
    return [torch.cat([values[:, k] for values in nearest]) for k in neighbors]


def _rows(count: int) -> int:
    return max(1, _MAX_DISTANCES // count)
