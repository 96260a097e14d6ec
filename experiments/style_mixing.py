"""Style mixing with the StyleGAN that was trained on the digits: a grid of pairs, and what each crossover keeps.

Karras et al. 2019 (https://arxiv.org/abs/1812.04948), section 3.1 and figure 3: the styles of A up to a crossover and
those of B from it on give an image with A's coarse features and B's fine ones.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from fastgan.metrics.digits import digit_classifier
from fastgan.models.stylegan import StyleGANGenerator, mix_styles
from fastgan.sampling import draw_latents, image_grid, save_png

PICTURE = "style-mixing.png"
NUM_PAIRS = 1000
_SHOWN = 8


@dataclass(frozen=True)
class Crossover:
    """How much of A and B is in the images that have B's styles from a resolution on, over 1,000 pairs.

    Attributes:
        resolution: the crossover; 4 is B itself.
        digit_of_a, digit_of_b: shares of the images that show A's and B's digit, where those differ.
        coarse: how far the image reduced to 4x4 has gone from A's to B's, 0 to 1: |M - A| / (|M - A| + |M - B|).
        fine: the same of what the reduction to half of the resolution leaves out.
    """

    resolution: int
    digit_of_a: float
    digit_of_b: float
    coarse: float
    fine: float


@torch.inference_mode()
def measure(generator: StyleGANGenerator, *, seed: int = 0) -> list[Crossover]:
    """Mixes 1,000 pairs at every crossover, from the finest to 4."""
    a, b = (_styles(generator, NUM_PAIRS, seed=seed + i) for i in (0, 1))
    images_a, images_b = (_render(generator, styles) for styles in (a, b))
    digit_a, digit_b = (digit_classifier()(images) for images in (images_a, images_b))
    differ = digit_a != digit_b
    found = []
    for resolution in crossovers(generator):
        mixed = _render(generator, mix_styles(a, b, resolution))
        digit = digit_classifier()(mixed)[differ]
        found.append(
            Crossover(
                resolution,
                (digit == digit_a[differ]).double().mean().item(),
                (digit == digit_b[differ]).double().mean().item(),
                _share_of_b(*map(_coarse, (mixed, images_a, images_b))),
                _share_of_b(*map(_fine, (mixed, images_a, images_b))),
            )
        )
    return found


@torch.inference_mode()
def draw(generator: StyleGANGenerator, path: Path, *, seed: int = 0) -> None:
    """A row for each crossover between the row of all A, on top, and that of all B, at the bottom."""
    a, b = (_styles(generator, _SHOWN, seed=seed + i) for i in (0, 1))
    rows = [a, *(mix_styles(a, b, resolution) for resolution in crossovers(generator))]
    save_png(image_grid(torch.cat([_render(generator, styles) for styles in rows]), columns=_SHOWN), path)


def crossovers(generator: StyleGANGenerator) -> list[int]:
    """Every crossover, from the finest to 4, which leaves nothing of A."""
    return sorted(generator.synthesis.resolutions, reverse=True)


def _styles(generator: StyleGANGenerator, count: int, *, seed: int) -> Tensor:
    return generator.styles(generator.mapping(draw_latents(count, generator.latent_dim, seed=seed)))


def _render(generator: StyleGANGenerator, styles: Tensor) -> Tensor:
    return torch.cat([generator.synthesis(batch, noise="constant") for batch in styles.split(64)])


def _coarse(images: Tensor) -> Tensor:
    return avg_pool2d(images, images.shape[-1] // 4)


def _fine(images: Tensor) -> Tensor:
    return images - interpolate(avg_pool2d(images, 2), scale_factor=2, mode="nearest")


def _share_of_b(mixed: Tensor, a: Tensor, b: Tensor) -> float:
    from_a, from_b = ((mixed - other).flatten(1).norm(dim=1) for other in (a, b))
    return (from_a / (from_a + from_b)).mean().item()
