"""WGAN-GP: the networks of DCGAN, with a critic without batch norm.

Gulrajani et al., "Improved Training of Wasserstein GANs", 2017 (https://arxiv.org/abs/1704.00028). The critic's output
is a score, not a logit; no discriminator of fastgan has a sigmoid. The 28x28 trunk keeps its dropout, which is
independent for each sample.
"""

from torch import nn

from fastgan.models.dcgan import build_discriminator, build_generator, checked_base_channels


def build_wgan_gp(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
    norm: str = "none",
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the critic for a resolution, 28 or a power of two from 16 to 256.

    Args:
        base_channels: as for DCGAN: 64 by default at 28 and 128 elsewhere.
        num_classes: as for DCGAN.
        norm: normalization of the critic: "none", or "layer" for layer norm (section 4 of the paper). The generator has
            batch norm.
    """
    if norm not in ("none", "layer"):
        raise ValueError(
            f"wgan-gp has no critic with norm {norm!r}, only with 'none' and 'layer', which do not couple the samples "
            "that the penalty differentiates"
        )
    base = checked_base_channels("wgan-gp", resolution, base_channels)
    return (
        build_generator(resolution, num_channels, latent_dim, base, num_classes),
        build_discriminator(resolution, num_channels, base, num_classes, norm=norm),
    )
