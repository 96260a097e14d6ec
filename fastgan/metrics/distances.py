"""Two distances between features: Frechet's, as if they were normally distributed, and the kernel distance."""

import torch
from torch import Tensor

from fastgan.metrics import MetricsError

_ROWS = 1024  # rows of the kernel matrix that are in memory at a time


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
    real, generated = _checked(real, generated)
    (mean_s, root_s), (mean_t, root_t) = _moments(real), _moments(generated)
    traces = root_s.square().sum() + root_t.square().sum()
    of_roots = torch.linalg.svdvals(root_s @ root_t.T).sum()
    return max(0.0, ((mean_s - mean_t).square().sum() + traces - 2 * of_roots).item())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean [F], and a root R [min(N, F), F] of the unbiased covariance R'R."""
    mean = features.mean(dim=0)
    centered = (features - mean) / (len(features) - 1) ** 0.5
    return mean, torch.linalg.qr(centered, mode="r").R


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """The Kernel Inception Distance of Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401, section 4).

    The unbiased estimate of the squared maximum mean discrepancy with the kernel ``(x . y / F + 1)^3``, over all images
    rather than averaged over subsets. Unlike that of the Frechet distance, its expectation does not depend on the
    counts, and it may be slightly below 0.

    Args:
        real: features, floating-point [N, F], N at least 2; computed in float64.
        generated: features, [M, F], M at least 2.
    """
    real, generated = _checked(real, generated)
    within = 0
    for x in (real, generated):
        diagonal = (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum()
        within += (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))
    return (within - 2 * _kernel_sum(real, generated) / (len(real) * len(generated))).item()


def _checked(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    fits = real.ndim == generated.ndim == 2 and real.shape[1] == generated.shape[1]
    if not fits or min(len(real), len(generated)) < 2:
        found = f"{list(real.shape)} and {list(generated.shape)}"
        raise MetricsError(f"features have shapes {found}, expected [N, F] and [M, F] with N and M from 2")
    return real.double(), generated.double()


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([(rows @ y.T / x.shape[1] + 1).pow(3).sum() for rows in x.split(_ROWS)]).sum()
