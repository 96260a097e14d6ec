"""Paths from one latent to another, and along one dimension."""

import torch
from torch import Tensor

from fastgan.sampling.generation import SamplingError

# If the sine of the angle is below this, the quotient of sines has lost half of float64's digits; the straight line
# then differs from the arc by the square of the angle, 1e-16.
_SMALL_SINE = 1e-8


def linear(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """The straight line from ``a`` to ``b``, as ``frames`` equidistant points, including both ends.

    Args:
        a, b: floating-point [N, D].
        frames: number of points, at least 2.

    Returns:
        [N, frames, D].
    """
    t = torch.linspace(0, 1, frames, dtype=a.dtype, device=a.device)[:, None]
    return torch.lerp(a[:, None], b[:, None], t)


def spherical(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """The arc from ``a`` to ``b``: sin((1 - t) angle) / sin(angle) a + sin(t angle) / sin(angle) b.

    Shoemake, "Animating rotation with quaternion curves", 1985. White, "Sampling Generative Networks", 2016
    (https://arxiv.org/abs/1609.04468), section 2, uses it for latents: normal latents lie near a sphere of radius
    sqrt(D), and the middle of a straight line is much nearer to the origin than any latent.

    Args:
        a, b: floating-point [N, D], not zero.
        frames: number of points, at least 2.

    Returns:
        [N, frames, D], computed in float64 and returned in the dtype of ``a``.

    Raises:
        SamplingError: for a pair in opposite directions, between which the arc is not unique.
    """
    start, end = a.double()[:, None], b.double()[:, None]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=2).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    sine = angle.sin()
    small = sine < _SMALL_SINE
    if (small & (cosine < 0)).any():
        raise SamplingError("two latents point in opposite directions, so the arc between them is not unique")
    t = torch.linspace(0, 1, frames, dtype=torch.float64, device=a.device)[:, None]
    arc = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / sine
    return torch.where(small, torch.lerp(start, end, t), arc).to(a.dtype)


def along_dimension(a: Tensor, dimension: int, values: Tensor) -> Tensor:
    """Replaces one dimension of ``a`` by each of ``values``: [N, D] and [F] to [N, F, D].

    Raises:
        SamplingError: for a dimension that ``a`` does not have; one sentence.
    """
    length = a.shape[1]
    if not 0 <= dimension < length:
        raise SamplingError(f"dimension is {dimension}, expected 0 to {length - 1}: a latent is {length} long")
    path = a[:, None].repeat(1, len(values), 1)
    path[:, :, dimension] = values
    return path
