"""SNGAN: DCGAN's generator and a discriminator with spectral normalization.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018 (https://arxiv.org/abs/1802.05957).
The weights of every convolution, of the linear layer and, with classes, of the embedding are divided by their largest
singular value, as one group (:func:`fastgan.nn.spectral_norm_`); :func:`fastgan.nn.largest_singular_values` checks that
the result is 1.
"""

from torch import nn

from fastgan.models.dcgan import build_generator, check_resolution, init_weights, last_layer
from fastgan.models.sequential import Discriminator
from fastgan.nn import BiasAct, spectral_norm_


def build_sngan(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for a resolution, 28 or a power of two from 16 to 256.

    The discriminator has convolutions 4x4 of stride 2 down to 1x1, a linear layer, and leaky ReLU 0.1, the slope of
    table 3 of the paper. At 28x28 and at 16x16 there are four convolutions, to 64, 128, 256 and 512 channels; each
    further doubling of the resolution adds a convolution to 512. 2,755,009 parameters for 28x28x1.

    Args:
        base_channels: channels of the generator's last map before the image and of the discriminator's first map; the
            other widths follow, up to eight times as many; 64 by default.
        num_classes: as for DCGAN; the embedding of the projection is spectrally normalized too (Miyato and Koyama 2018,
            https://arxiv.org/abs/1802.05637).
    """
    check_resolution("sngan", resolution)
    base = base_channels or 64
    generator = build_generator(resolution, num_channels, latent_dim, base, num_classes)
    layers: list[nn.Module] = []
    c_in, c_out, size = num_channels, base, resolution
    # 28 halves to 14, 7, 3 and 1.
    while size > 1:
        layers += [
            nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
            BiasAct(c_out, act="lrelu", negative_slope=0.1),
        ]
        c_in, c_out, size = c_out, min(2 * c_out, 8 * base), size // 2
    layers += [nn.Flatten(), last_layer(c_in, num_classes)]
    return generator, spectral_norm_(Discriminator(layers, num_classes).apply(init_weights))
