"""Mode collapse on eight Gaussians: which modes are captured, and how many samples lie near any of them.

Both are the measures of Srivastava et al. 2017 (VEEGAN, https://arxiv.org/abs/1705.07761, section 4.1), which Lin et
al. 2018 (PacGAN, https://arxiv.org/abs/1712.04086, section 4.1) took over: a sample is of high quality if it lies
within three standard deviations of the nearest centre. They count a mode as found with a single such sample; here it
takes a share, so that the count does not grow with the number of samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.data.gaussians import CENTRES, STANDARD_DEVIATION

# Of all samples; the fair share is 12.5%. With 10,000 samples five standard errors of a share of 2% are 0.7%, so that
# neither a mode with its fair share nor one with a few stray samples is judged by chance.
MIN_SHARE = 0.02

# Of a normal distribution in two dimensions 1 - exp(-9 / 2) = 98.9% lies as near to its centre.
MAX_DEVIATIONS = 3.0


@dataclass(frozen=True)
class ModeCoverage:
    """How samples spread over the eight modes.

    Attributes:
        counts: samples within three standard deviations of each centre, in the order of ``CENTRES``.
        num_samples: of all samples, near a centre or not.
    """

    counts: tuple[int, ...]
    num_samples: int

    @property
    def captured(self) -> int:
        """How many modes have at least 2% of all samples near them, 0 to 8."""
        return sum(share >= MIN_SHARE for share in self.shares)

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of all samples that is near each centre; 0.125 or a little less where the modes are balanced."""
        return tuple(count / self.num_samples for count in self.counts)

    @property
    def high_quality(self) -> float:
        """The part of all samples that is near any centre, 0 to 1; 0.989 for the data themselves."""
        return sum(self.counts) / self.num_samples


def mode_coverage(points: Tensor) -> ModeCoverage:
    """Counts the samples near each of the eight centres.

    Args:
        points: of the plane, floating-point [N, 2], N at least 1; what is not finite is near no centre.

    Raises:
        ValueError: for another shape; one sentence.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points have shape {list(points.shape)}, expected [N, 2] with N at least 1")
    points = points.double()
    distances = (points[:, None] - torch.tensor(CENTRES, dtype=points.dtype, device=points.device)).norm(dim=2)
    # No point is near two centres: those are at least 1.41 apart, fourteen standard deviations.
    near = (distances <= MAX_DEVIATIONS * STANDARD_DEVIATION).sum(dim=0)
    return ModeCoverage(counts=tuple(near.tolist()), num_samples=len(points))
