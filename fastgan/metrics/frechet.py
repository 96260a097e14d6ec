"""The Frechet distance between features, as if these were normally distributed."""

import torch
from torch import Tensor

from fastgan.metrics.errors import MetricsError


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """The FID, Frechet Inception Distance, of Heusel et al. 2017 (https://arxiv.org/abs/1706.08500, equation 6).

    The squared distance of the means, plus ``tr(S + T - 2 (S T)^(1/2))`` of the covariances S and T. With centered
    features A and B, such that S = A'A and T = B'B, the trace of the root is the sum of the singular values of A B'. No
    covariance is formed or inverted, so the result is exact for a singular one too (fewer images than features).

    The distance between samples is biased upwards, more so for fewer images: compare only distances at equal counts.

    Args:
        real: features, floating-point [N, F], N at least 2; computed in float64.
        generated: features, [M, F], M at least 2.

    Returns:
        At least 0.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise MetricsError(
            f"features have shapes {list(real.shape)} and {list(generated.shape)}, expected [N, F] and [M, F]"
        )
    if min(len(real), len(generated)) < 2:
        raise MetricsError(
            f"a covariance takes at least 2 images, and there are {len(real)} real and {len(generated)} generated ones"
        )
    (mean_s, root_s), (mean_t, root_t) = _moments(real.double()), _moments(generated.double())
    traces = root_s.square().sum() + root_t.square().sum()
    of_roots = torch.linalg.svdvals(root_s @ root_t.T).sum()
    return max(0.0, ((mean_s - mean_t).square().sum() + traces - 2 * of_roots).item())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [F], and a root R [min(N, F), F] of the unbiased covariance R'R."""
    mean = features.mean(dim=0)
    centerd = (features - mean) / (len(features) - 1) ** 0.5
    return mean, torch.linalg.qr(centerd, mode="r").R
