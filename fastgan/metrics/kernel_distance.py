"""The kernel distance between features."""

import torch
from torch import Tensor

from fastgan.metrics.errors import MetricsError

_ROWS = 1024  # of the kernel matrix computed at a time


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """The Kernel Inception Distance of Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401, section 4).

    The unbiased estimate of the squared maximum mean discrepancy with the kernel ``(x . y / F + 1)^3``, over all images
    rather than averaged over subsets. Unlike that of the Frechet distance, its expectation does not depend on the
    counts, and it may be slightly below 0.

    Args:
        real: features, floating-point [N, F], N at least 2; computed in float64.
        generated: features, [M, F], M at least 2.
    """
    real, generated = real.double(), generated.double()
    n, m = len(real), len(generated)
    if min(n, m) < 2:
        raise MetricsError(f"a kernel distance takes at least 2 images, and there are {n} real and {m} generated ones")
    within = (_kernel_sum(x, x) - _diagonal_sum(x) for x in (real, generated))
    x, y = (total / (count * (count - 1)) for total, count in zip(within, (n, m), strict=True))
    return (x + y - 2 * _kernel_sum(real, generated) / (n * m)).item()


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([(rows @ y.T / x.shape[1] + 1).pow(3).sum() for rows in x.split(_ROWS)]).sum()


def _diagonal_sum(x: Tensor) -> Tensor:
    return (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum()
