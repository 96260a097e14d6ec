"""Style-based generators: the mapping to w, principal directions of w, and style mixing."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastgan.models.stylegan import StyleGANGenerator, mix_styles_at_layer
from fastgan.sampling.generation import SamplingError, draw_latents, run_in_batches

# Ranges of resolutions, half-open, from Karras et al. 2019, section 3.1 and figure 3.
RANGES = {"coarse": (4, 16), "middle": (16, 64), "fine": (64, 2048)}

# The covariance of w has up to 512 x 512 entries; with 10,000 samples its largest eigenvalues have a relative error of
# about sqrt(2 / 10,000) = 1.4%.
_NUM_SAMPLES = 10_000
_SAMPLES_SEED = 0


@dataclass(frozen=True)
class Directions:
    """Principal components of w.

    Attributes:
        vectors: float32 [D, D], orthonormal rows, by decreasing variance of w; each row's entry of largest magnitude
            is positive.
        deviations: float32 [D], the standard deviation of w along each row.
    """

    vectors: Tensor
    deviations: Tensor


def require_styles(generator: nn.Module, what: str) -> StyleGANGenerator:
    """Returns the generator if it has styles; the error says that ``what`` needs them."""
    if not isinstance(generator, StyleGANGenerator):
        raise SamplingError(
            f"{what} needs a generator with styles; expected one of model stylegan, not {type(generator).__name__}"
        )
    return generator


def map_latents(generator: StyleGANGenerator, latents: Tensor) -> Tensor:
    """Maps latents [N, latent_dim] to w, float32 [N, style_dim], on the CPU."""
    return run_in_batches(generator, generator.mapping, [latents])


def render_styles(
    generator: StyleGANGenerator, styles: Tensor, *, truncation: float = 1.0, noise: str = "constant"
) -> Tensor:
    """Generates images from styles, as reproducible as those of :func:`fastgan.sampling.render`.

    Args:
        styles: w [N, style_dim], the same for every layer, or styles [N, num_layers, style_dim]; on any device.
        truncation: psi in [0, 1], for all layers.
        noise: "constant" or "none".

    Returns:
        float32 [N, C, H, W], on the CPU.
    """

    def synthesize(styles: Tensor) -> Tensor:
        if truncation != 1:
            styles = generator.truncate(styles, truncation)
        return generator.synthesis(generator.styles(styles) if styles.dim() == 2 else styles, noise=noise)

    return run_in_batches(generator, synthesize, [styles])


def check_component(generator: StyleGANGenerator, component: int) -> None:
    """Raises SamplingError, one sentence, for a principal component that w does not have."""
    length = generator.synthesis.style_dim
    if not 0 <= component < length:
        raise SamplingError(f"component is {component}, expected 0 to {length - 1}: w is {length} long")


def principal_directions(generator: StyleGANGenerator) -> Directions:
    """The principal components of w over 10,000 latents of a fixed seed.

    Härkönen et al., "GANSpace: Discovering Interpretable GAN Controls", 2020 (https://arxiv.org/abs/2004.02546),
    section 2.1.
    """
    w = map_latents(generator, draw_latents(_NUM_SAMPLES, generator.latent_dim, seed=_SAMPLES_SEED))
    variances, vectors = torch.linalg.eigh(w.double().T.cov())
    vectors = vectors.flip(1).T
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return Directions((vectors * largest.sign()).float(), variances.flip(0).clamp(min=0).sqrt().float())


def layers_of(generator: StyleGANGenerator, crossover: str) -> tuple[int, int]:
    """The half-open range of layers that use B's styles.

    ``crossover`` is a current resolution, such as "16", for the layers from it on; or "coarse", "middle" or "fine" for
    only the layers from 4 to 8, from 16 to 32, or from 64 on.
    """
    resolutions = generator.synthesis.in_use()
    if crossover in RANGES:
        low, high = RANGES[crossover]
        chosen = [size for size in resolutions if low <= size < high]
    else:
        chosen = [size for size in resolutions if crossover in map(str, resolutions) and size >= int(crossover)]
    if not chosen:
        names = [name for name, (low, _) in RANGES.items() if low <= resolutions[-1]]
        raise SamplingError(
            f"crossover is {crossover!r}, expected one of {', '.join([*map(str, resolutions), *names])}"
        )
    return 2 * resolutions.index(chosen[0]), 2 * resolutions.index(chosen[-1]) + 2


def mix(a: Tensor, b: Tensor, layers: tuple[int, int]) -> Tensor:
    """Takes the styles of ``b`` in the half-open range ``layers``, and of ``a`` elsewhere; each [N, num_layers, D]."""
    first, end = layers
    return mix_styles_at_layer(mix_styles_at_layer(a, b, first), a, end)


def mix_all(generator: StyleGANGenerator, rows: Tensor, columns: Tensor, layers: tuple[int, int]) -> Tensor:
    """Mixes every row with every column by :func:`mix` (Karras et al. 2019, figure 3).

    Args:
        rows: w [R, D], A for each row.
        columns: w [C, D], B for each column.
        layers: layers with B's styles, as :func:`layers_of` returns them.

    Returns:
        styles [R, C, num_layers, D].
    """
    a, b = (w[:, None].expand(-1, generator.num_layers, -1) for w in (rows, columns))
    shape = len(a), len(b), *a.shape[1:]
    mixed = mix(a[:, None].expand(shape).flatten(0, 1), b[None].expand(shape).flatten(0, 1), layers)
    return mixed.unflatten(0, shape[:2])
