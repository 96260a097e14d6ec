"""SNGAN: DCGAN's generator against a discriminator whose layers are spectrally normalized.

Miyato et al., "Spectral Normalization for Generative Adversarial Networks", 2018 (https://arxiv.org/abs/1802.05957).
Every convolution, the linear layer and, with classes, the embedding are divided by their largest singular value, as one
group (:func:`fastgan.nn.spectral_norm_`); :func:`fastgan.nn.largest_singular_values` checks that it is 1 then.
"""

from torch import Tensor, nn

from fastgan.models.dcgan import build_generator, init_weights, last_layer
from fastgan.models.labeled import run, sequence
from fastgan.nn import BiasAct, spectral_norm_

DEFAULT_BASE_CHANNELS = 64


def build_sngan(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for a resolution, 28 or a power of two from 16 to 256.

    Args:
        base_channels: channels of the generator's last map before the image and of the discriminator's first, which the
            other widths follow from; 64 by default.
        num_classes: as for DCGAN; the embedding of the projection is spectrally normalized too (Miyato and Koyama 2018,
            https://arxiv.org/abs/1802.05637).
    """
    base = DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    return (
        build_generator("sngan", resolution, num_channels, latent_dim, base, num_classes),
        SNGANDiscriminator(resolution, num_channels, base_channels=base, num_classes=num_classes),
    )


class SNGANDiscriminator(nn.Module):
    """Convolutions 4x4 of stride 2 down to 1x1 and a linear layer, all spectrally normalized; leaky ReLU 0.1.

    At 28x28, and at 16x16, these are four convolutions, to 64, 128, 256 and 512 channels; each further halving of the
    image is one more to 512. 2,755,009 parameters for 28x28x1. The slope of 0.1 is that of table 3 of the paper.

    Args:
        resolution: height and width of the images, from 16 to 256.
        base_channels: channels of the first map, in place of 64; each map has twice as many as the one before it, up to
            ``8 * base_channels``.
        num_classes: K of a conditional discriminator, which takes labels, int64 [N] from 0 to K - 1, as well.

    Shape:
        [N, num_channels, resolution, resolution] to logits [N].
    """

    def __init__(
        self,
        resolution: int = 28,
        num_channels: int = 1,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in, c_out, size = num_channels, base_channels, resolution
        # 28 halves to 14, 7, 3 and 1.
        while size > 1:
            layers += [
                nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                BiasAct(c_out, act="lrelu", negative_slope=0.1),
            ]
            c_in, c_out, size = c_out, min(2 * c_out, 8 * base_channels), size // 2
        self.layers = sequence([*layers, nn.Flatten(), last_layer(c_in, num_classes)], num_classes)
        self.apply(init_weights)
        spectral_norm_(self)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return run(self.layers, images, labels).squeeze(1)
