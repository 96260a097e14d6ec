"""StyleGAN, grown progressively from 4x4 to at most 1024x1024.

Karras, Laine and Aila, "A Style-Based Generator Architecture for Generative Adversarial Networks", 2019
(https://arxiv.org/abs/1812.04948); growing, equalized learning rate and the discriminator are those of Karras et al.
2018 (https://arxiv.org/abs/1710.10196). The paper trains with the non-saturating loss and R1 of gamma 10.
"""

from fastgan.models.stylegan.discriminator import StyleGANDiscriminator
from fastgan.models.stylegan.generator import Mapping, StyleGANGenerator, mix_styles, mix_styles_at_layer
from fastgan.models.stylegan.growing import RESOLUTIONS, GrowingNetwork
from fastgan.models.stylegan.synthesis import ConstantBlock, Synthesis, SynthesisBlock

DEFAULT_BASE_CHANNELS = 512


def build_stylegan(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 512,
    base_channels: int | None = None,
    style_dim: int | None = None,
    style_mixing: float = 0.9,
) -> tuple[StyleGANGenerator, StyleGANDiscriminator]:
    """Builds both networks, fully grown, for a resolution that is a power of two from 8 to 1024.

    Args:
        base_channels: channels of the maps up to 32x32, halved at each further resolution; 512 by default.
        style_dim: length of w and of the styles, and so the width of the mapping network; ``base_channels`` by default.
            The initial w varies in few directions: about 4 at length 32, 7 at 64, 58 at 512 (the squared sum of the
            eigenvalues of its covariance over the sum of their squares). A narrow network may need a larger one.
        style_mixing: of the generator, see :class:`StyleGANGenerator`.
    """
    base = DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    return (
        StyleGANGenerator(
            resolution, num_channels, latent_dim, base_channels=base, style_dim=style_dim, style_mixing=style_mixing
        ),
        StyleGANDiscriminator(resolution, num_channels, base_channels=base),
    )
