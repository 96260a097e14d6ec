"""DCGAN at 28x28 and at every power of two from 16 to 256.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks", 2016 (https://arxiv.org/abs/1511.06434), section 3. Where a leaky ReLU follows a biased convolution, both
are one :class:`fastgan.nn.BiasAct` after a convolution without bias; it holds the same parameters.

With classes the generators have conditional batch norm and the discriminators a projection head, as in Miyato and
Koyama, "cGANs with Projection Discriminator", 2018 (https://arxiv.org/abs/1802.05637); nothing else changes.
"""

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fastgan.models.labeled import run, sequence
from fastgan.nn import BiasAct, ConditionalBatchNorm2d, MinibatchDiscrimination, MinibatchStdDev, ProjectionHead

RESOLUTIONS = (16, 28, 32, 64, 128, 256)
DEFAULT_BASE_CHANNELS = 128
DEFAULT_BASE_CHANNELS_28 = 64
_LINEAR = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Embedding)


def build_dcgan(
    *,
    resolution: int,
    num_channels: int,
    latent_dim: int = 100,
    base_channels: int | None = None,
    num_classes: int | None = None,
    minibatch: str = "none",
) -> tuple[nn.Module, nn.Module]:
    """Builds the generator and the discriminator for a resolution, 28 or a power of two from 16 to 256.

    Args:
        base_channels: channels of the generator's last map before the image, which the other widths follow from; 64 by
            default at 28 and 128 elsewhere.
        num_classes: of a conditional pair, whose networks take labels, int64 [N], as well; ``None`` for none.
        minibatch: of the discriminator: "none", "stddev" or "discrimination", see :class:`DCGANDiscriminator`.

    Raises:
        ValueError: for another resolution, ``base_channels`` that do not divide by 4 at 28, or another ``minibatch``;
            one sentence.
    """
    base = checked_base_channels("dcgan", resolution, base_channels)
    return (
        build_generator("dcgan", resolution, num_channels, latent_dim, base, num_classes),
        build_discriminator("dcgan", resolution, num_channels, base, num_classes, minibatch=minibatch),
    )


def build_generator(
    model: str,
    resolution: int,
    num_channels: int,
    latent_dim: int,
    base_channels: int,
    num_classes: int | None,
) -> nn.Module:
    """The generator for a resolution; ``model`` is its name for an error."""
    _check_resolution(model, resolution)
    if resolution == 28:
        return DCGAN28Generator(num_channels, latent_dim, base_channels=base_channels, num_classes=num_classes)
    return DCGANGenerator(resolution, num_channels, latent_dim, base_channels=base_channels, num_classes=num_classes)


def build_discriminator(
    model: str,
    resolution: int,
    num_channels: int,
    base_channels: int,
    num_classes: int | None,
    *,
    norm: str = "batch",
    minibatch: str = "none",
) -> nn.Module:
    """The discriminator for a resolution; ``model`` is its name for an error."""
    _check_resolution(model, resolution)
    settings: dict[str, Any] = {
        "base_channels": base_channels,
        "num_classes": num_classes,
        "norm": norm,
        "minibatch": minibatch,
    }
    if resolution == 28:
        return DCGAN28Discriminator(num_channels, **settings)
    return DCGANDiscriminator(resolution, num_channels, **settings)


def checked_base_channels(model: str, resolution: int, base_channels: int | None) -> int:
    """The width of both networks, by default that of the resolution; refuses one that the 28x28 trunk cannot have."""
    if resolution != 28:
        return DEFAULT_BASE_CHANNELS if base_channels is None else base_channels
    base = DEFAULT_BASE_CHANNELS_28 if base_channels is None else base_channels
    if base % 4:
        raise ValueError(f"{model} at resolution 28 needs base_channels that divide by 4, not {base}")
    return base


def _check_resolution(model: str, resolution: int) -> None:
    if resolution not in RESOLUTIONS:
        *others, last = RESOLUTIONS
        raise ValueError(
            f"{model} has no networks for resolution {resolution}, only for {', '.join(map(str, others))} and {last}"
        )


def widths(resolution: int, base_channels: int) -> list[int]:
    """Channels of the maps between image and latent, from 4x4 up to half the image's size.

    The map at half the image's size has ``base_channels``; each halving of the size doubles them, up to
    ``8 * base_channels``. With 128 at resolution 64 that is the paper's 1024, 512, 256, 128.
    """
    num_maps = (resolution // 4).bit_length() - 1
    return [base_channels * min(2**i, 8) for i in reversed(range(num_maps))]


class DCGANGenerator(nn.Module):
    """Projection to 4x4, then transposed convolutions 4x4 of stride 2; batch norm and ReLU except at the image.

    Args:
        resolution: height and width of the images, a power of two from 16 to 256.
        base_channels: see :func:`widths`.
        num_classes: K of a conditional generator, which takes labels, int64 [N] from 0 to K - 1, as well.

    Shape:
        [N, latent_dim] to [N, num_channels, resolution, resolution] in [-1, 1].
    """

    def __init__(
        self,
        resolution: int,
        num_channels: int,
        latent_dim: int = 100,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        channels = widths(resolution, base_channels)
        layers: list[nn.Module] = [
            nn.Linear(latent_dim, channels[0] * 16, bias=False),
            nn.Unflatten(1, (channels[0], 4, 4)),
            _batch_norm(channels[0], num_classes),
            nn.ReLU(),
        ]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                _batch_norm(c_out, num_classes),
                nn.ReLU(),
            ]
        layers += [nn.ConvTranspose2d(channels[-1], num_channels, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = sequence(layers, num_classes)
        self.apply(init_weights)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return run(self.layers, latents, labels)


class DCGANDiscriminator(nn.Module):
    """Convolutions 4x4 of stride 2 down to 4x4; leaky ReLU 0.2, and a norm except at the image.

    Args:
        resolution: height and width of the images, a power of two from 16 to 256.
        base_channels: see :func:`widths`.
        num_classes: K of a conditional discriminator, which takes labels, int64 [N] from 0 to K - 1, as well.
        norm: "batch", "layer" or "none". Batch norm makes the output of a sample depend on the whole batch, so it does
            not go with a gradient penalty. Layer norm is over channels and pixels, with a scale and shift per channel,
            as in the code of Gulrajani et al. 2017.
        minibatch: the layer before the head that sees the whole batch, to detect collapse: "none", "stddev" for
            :class:`fastgan.nn.MinibatchStdDev` on the last map, or "discrimination" for
            :class:`fastgan.nn.MinibatchDiscrimination` of its features, 100 kernels of 5 components (Salimans et al.
            2016 and their code).

    Shape:
        [N, num_channels, resolution, resolution] to logits [N].
    """

    def __init__(
        self,
        resolution: int,
        num_channels: int,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS,
        num_classes: int | None = None,
        norm: str = "batch",
        minibatch: str = "none",
    ) -> None:
        super().__init__()
        channels = widths(resolution, base_channels)[::-1]
        layers: list[nn.Module] = [
            nn.Conv2d(num_channels, channels[0], 4, stride=2, padding=1, bias=False),
            BiasAct(channels[0], act="lrelu", negative_slope=0.2),
        ]
        for c_in, c_out in pairwise(channels):
            layers.append(nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False))
            normalization = _norm(norm, c_out)
            if normalization is None:
                layers.append(BiasAct(c_out, act="lrelu", negative_slope=0.2))
            else:
                layers += [normalization, nn.LeakyReLU(0.2)]
        self.layers = sequence([*layers, *_head(channels[-1], 4 * 4, num_classes, minibatch)], num_classes)
        self.apply(init_weights if norm == "batch" else init_weights_without_batch_norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return run(self.layers, images, labels).squeeze(1)


class DCGAN28Generator(nn.Module):
    """The 28x28 generator: a linear layer to 128x7x7, then twice nearest x2 and a 3x3 convolution, to 128 and 64.

    856,065 parameters for one channel and a latent of 100.

    Args:
        base_channels: channels of the last map, in place of 64; the other two have twice as many.
        num_classes: as of :class:`DCGANGenerator`.

    Shape:
        [N, latent_dim] to [N, num_channels, 28, 28] in [-1, 1].
    """

    def __init__(
        self,
        num_channels: int = 1,
        latent_dim: int = 100,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS_28,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        narrow, wide = base_channels, 2 * base_channels
        layers = [
            nn.Linear(latent_dim, wide * 7 * 7),
            nn.Unflatten(1, (wide, 7, 7)),
            _batch_norm(wide, num_classes),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(wide, wide, 3, padding=1),
            _batch_norm(wide, num_classes),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(wide, narrow, 3, padding=1),
            _batch_norm(narrow, num_classes),
            nn.ReLU(),
            nn.Conv2d(narrow, num_channels, 3, padding=1),
            nn.Tanh(),
        ]
        self.layers = sequence(layers, num_classes)
        self.apply(init_weights)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return run(self.layers, latents, labels)


class DCGAN28Discriminator(nn.Module):
    """The 28x28 discriminator: four 3x3 convolutions of stride 2 to 16, 32, 64 and 128 channels, and a linear head.

    98,113 parameters for one channel, and 97,665 without a norm.

    Args:
        base_channels: channels of the third map, in place of 64, divisible by 4; each map has twice those before it.
        num_classes, norm, minibatch: as in :class:`DCGANDiscriminator`.

    Shape:
        [N, num_channels, 28, 28] to logits [N].
    """

    def __init__(
        self,
        num_channels: int = 1,
        *,
        base_channels: int = DEFAULT_BASE_CHANNELS_28,
        num_classes: int | None = None,
        norm: str = "batch",
        minibatch: str = "none",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = num_channels
        for i in range(4):
            c_out = base_channels // 4 * 2**i
            layers += [
                nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False),
                BiasAct(c_out, act="lrelu", negative_slope=0.2),
                nn.Dropout2d(0.25),
            ]
            normalization = _norm(norm, c_out)
            if i > 0 and normalization is not None:
                layers.append(normalization)
            c_in = c_out
        # 28 halves to 14, 7, 4 and 2: the head sees maps of 2x2, not of 1x1.
        self.layers = sequence([*layers, *_head(c_in, 2 * 2, num_classes, minibatch)], num_classes)
        self.apply(init_weights if norm == "batch" else init_weights_without_batch_norm)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return run(self.layers, images, labels).squeeze(1)


def _head(num_channels: int, num_pixels: int, num_classes: int | None, minibatch: str) -> list[nn.Module]:
    """What follows the last map: from [N, num_channels, H, W] to [N, 1]."""
    features = num_channels * num_pixels
    if minibatch == "none":
        return [nn.Flatten(), last_layer(features, num_classes)]
    if minibatch == "stddev":
        return [MinibatchStdDev(), nn.Flatten(), last_layer(features + num_pixels, num_classes)]
    if minibatch == "discrimination":
        layer = MinibatchDiscrimination(features, num_kernels=100, kernel_dim=5)
        return [nn.Flatten(), layer, last_layer(features + 100, num_classes)]
    raise ValueError(f"minibatch is {minibatch!r}, expected 'none', 'stddev' or 'discrimination'")


def last_layer(num_features: int, num_classes: int | None) -> nn.Module:
    """From features [N, num_features] to [N, 1]."""
    return nn.Linear(num_features, 1) if num_classes is None else ProjectionHead(num_features, num_classes)


def _batch_norm(num_channels: int, num_classes: int | None) -> nn.Module:
    if num_classes is None:
        return nn.BatchNorm2d(num_channels)
    return ConditionalBatchNorm2d(num_channels, num_classes)


def _norm(norm: str, num_channels: int) -> nn.Module | None:
    if norm == "none":
        return None
    if norm == "layer":
        return nn.GroupNorm(1, num_channels)
    if norm == "batch":
        return nn.BatchNorm2d(num_channels)
    raise ValueError(f"norm is {norm!r}, expected 'batch', 'layer' or 'none'")


def init_weights(module: nn.Module) -> None:
    """Weights from a normal distribution of standard deviation 0.02 (section 4 of the paper), biases zero.

    The scales of batch norm are drawn around 1, as in the authors' code; those of conditional batch norm are 1. The
    embedding of a projection is a linear layer of one-hot labels.
    """
    if isinstance(module, _LINEAR):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d) and module.affine:
        nn.init.normal_(module.weight, 1.0, 0.02)


def init_weights_without_batch_norm(module: nn.Module) -> None:
    """Weights that keep the variance of a signal (He et al. 2015), as in the code of Gulrajani et al. 2017.

    With a standard deviation of 0.02 and nothing to normalize it, the signal would shrink in every layer: the gradient
    of the 28x28 trunk without a norm would begin at a length of 0.0002. With this it begins at 0.9, and the penalty
    asks for 1.
    """
    if isinstance(module, _LINEAR):
        nn.init.kaiming_normal_(module.weight, a=0.2)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
