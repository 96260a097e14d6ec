"""Mode coverage of the eight Gaussians: captured modes, and the share of samples near any mode.

Both are the measures of Srivastava et al. 2017 (VEEGAN, https://arxiv.org/abs/1705.07761, section 4.1), also used by
Lin et al. 2018 (PacGAN, https://arxiv.org/abs/1712.04086, section 4.1): a sample is of high quality if it lies within
three standard deviations of the nearest center. There a single such sample captures a mode; here a mode needs a share
of the samples, so that the count does not grow with the number of samples.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fastgan.data.gaussians import CENTERS, STANDARD_DEVIATION

# Share of all samples that captures a mode; the fair share is 12.5%. With 10,000 samples five standard errors of a
# share of 2% are 0.7%, so that chance decides neither about a fair share nor about a few stray samples.
MIN_SHARE = 0.02

# 1 - exp(-9 / 2) = 98.9% of a normal distribution in two dimensions lies within this many standard deviations.
MAX_DEVIATIONS = 3.0


class ModeCoverage(NamedTuple):
    """The distribution of samples over the eight modes.

    Attributes:
        counts: number of samples within three standard deviations of each center, in the order of ``CENTERS``.
        num_samples: number of all samples, near a center or not.
    """

    counts: tuple[int, ...]
    num_samples: int

    @property
    def captured(self) -> int:
        """The number of modes with at least 2% of all samples near them, 0 to 8."""
        return sum(count >= MIN_SHARE * self.num_samples for count in self.counts)

    @property
    def high_quality(self) -> float:
        """The fraction of all samples near any center, 0 to 1; 0.989 for the data themselves."""
        return sum(self.counts) / self.num_samples


def nearest_mode(points: Tensor) -> Tensor:
    """The mode within three standard deviations of each point of the plane [N, 2], int64 [N] from 0 to 7, or -1."""
    points = points.double()
    distances = (points[:, None] - torch.tensor(CENTERS, dtype=points.dtype, device=points.device)).norm(dim=2)
    # No point is near two centers, which are at least 1.41 apart, fourteen standard deviations.
    distance, mode = distances.min(dim=1)
    return torch.where(distance <= MAX_DEVIATIONS * STANDARD_DEVIATION, mode, -1)


def mode_coverage(points: Tensor) -> ModeCoverage:
    """Counts the samples, floating-point [N, 2] with N at least 1, near each of the eight centers."""
    counts = (nearest_mode(points) + 1).bincount(minlength=len(CENTERS) + 1)[1:]
    return ModeCoverage(counts=tuple(counts.tolist()), num_samples=len(points))
